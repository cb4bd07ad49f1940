// What web/ uses of ComfyUI's own page, for `tsc --checkJs`. Never served: ComfyUI runs every script under web/.
// A `?` means that some frontend since 1.32 does not have it.

interface ComfyWidget {
  name: string;
  type: string;
  value: any;
  label?: string;
  tooltip?: string;
  hidden?: boolean;
  advanced?: boolean;
  serialize?: boolean;
  options: Record<string, any>;
  element?: HTMLElement;
  callback?: (...values: any[]) => unknown;
  computeSize?: (...values: any[]) => [number, number];
  onRemove?: () => void;
  setNodeId?: (id: unknown) => void;
  _state?: { options?: Record<string, any> };
}

interface ComfyNode {
  id: number | string;
  comfyClass: string;
  inputs?: { name: string; widget?: { name: string } }[];
  isInputConnected(slot: number): boolean;
  widgets: ComfyWidget[];
  size: [number, number];
  pos: [number, number];
  graph?: ComfyGraph;
  computeSize(): [number, number];
  setSize(size: [number, number]): void;
  showAdvanced?: boolean;
  toggleAdvanced(): void;
  addWidget(type: string, name: string, value: unknown, press: () => void, options: object): ComfyWidget;
  addDOMWidget(name: string, type: string, element: HTMLElement, options: object): ComfyWidget;
  connectByType(slot: number, target: ComfyNode, type: string): unknown;
  onAfterGraphConfigured?: () => void;
}

interface ComfyGraph {
  add(node: ComfyNode): void;
  serialize(): object;
  onNodeAdded?: (node: ComfyNode) => void;
}

interface ComfySidebarTab {
  id: string;
  icon: string;
  title: string;
  tooltip?: string;
  type: string;
  render: (place: HTMLElement) => void;
}

interface ComfyApp {
  registerExtension(extension: {
    name: string;
    settings?: object[];
    setup?: () => void | Promise<void>;
    beforeConfigureGraph?: (workflow: Record<string, any>) => void;
    nodeCreated?: (node: ComfyNode) => void;
    afterConfigureGraph?: () => void;
  }): void;
  queuePrompt(number: number, count: number): Promise<unknown>;
  extensionManager: {
    registerSidebarTab(tab: ComfySidebarTab): void;
    command: { execute(id: string): Promise<void> };
    toast: { add(message: { severity: string; summary: string; detail: string; life?: number }): void };
    setting: { get(id: string): any };
  };
  canvas: {
    visible_area: Float32Array;
    graph: ComfyGraph;
    selectNode?: (node: ComfyNode) => void;
    setDirty(foreground: boolean, background: boolean): void;
    processMouseWheel?: (event: WheelEvent) => void;
  };
  graph: ComfyGraph;
}

interface ComfyApi extends EventTarget {
  fetchApi(path: string, options?: RequestInit): Promise<Response>;
  apiURL(path: string): string;
  queuePrompt(
    place: number,
    prompt: { output: object; workflow?: object },
    options?: { partialExecutionTargets?: string[] },
  ): Promise<unknown>;
}

interface Window {
  __COMFYUI_FRONTEND_VERSION__?: string;
  LiteGraph: { createNode(type: string): ComfyNode };
}

declare module "*/scripts/app.js" {
  export const app: ComfyApp;
}
declare module "*/scripts/api.js" {
  export const api: ComfyApi;
}
