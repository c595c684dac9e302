/* A plug-in for the tests: module "wherry_test" with the function "answer", which gives 42. */
#include <wasmedge/wasmedge.h>

static WasmEdge_Result answer(void *data, const WasmEdge_CallingFrameContext *frame,
                              const WasmEdge_Value *in, WasmEdge_Value *out) {
  (void)data, (void)frame, (void)in;
  out[0] = WasmEdge_ValueGenI32(42);
  return WasmEdge_Result_Success;
}

static WasmEdge_ModuleInstanceContext *create(const WasmEdge_ModuleDescriptor *module) {
  WasmEdge_String name = WasmEdge_StringCreateByCString(module->Name);
  WasmEdge_ModuleInstanceContext *instance = WasmEdge_ModuleInstanceCreate(name);
  WasmEdge_StringDelete(name);
  WasmEdge_ValType result = WasmEdge_ValTypeGenI32();
  WasmEdge_FunctionTypeContext *type = WasmEdge_FunctionTypeCreate(NULL, 0, &result, 1);
  name = WasmEdge_StringCreateByCString("answer");
  WasmEdge_ModuleInstanceAddFunction(instance, name,
                                     WasmEdge_FunctionInstanceCreate(type, answer, NULL, 0));
  WasmEdge_StringDelete(name);
  WasmEdge_FunctionTypeDelete(type);
  return instance;
}

static WasmEdge_ModuleDescriptor modules[] = {
    {.Name = "wherry_test", .Description = "", .Create = create},
};

static WasmEdge_PluginDescriptor descriptor = {
    .Name = "wherry_test_plugin",
    .Description = "",
    .APIVersion = WasmEdge_Plugin_CurrentAPIVersion,
    .Version = {0, 1, 0, 0},
    .ModuleCount = 1,
    .ModuleDescriptions = modules,
};

const WasmEdge_PluginDescriptor *WasmEdge_Plugin_GetDescriptor(void) { return &descriptor; }
