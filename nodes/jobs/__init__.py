"""A paid call, from the reservation of its price to the picture on disk: requests and sqlite3; never torch or comfy."""
