//! Every WGSL kernel, as the case table calls it: valid, within WebGPU's default limits, of the shape
//! its spec says, and translatable to SPIR-V (Vulkan), MSL (Metal) and HLSL (DirectX 12).

use naga::back::{hlsl, msl, spv};
use naga::proc::Layouter;
use naga::valid::{Capabilities, FunctionInfo, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, EntryPoint, Module, StorageAccess, TypeInner};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tunesmith::backend::cpu::Cpu;
use tunesmith::backend::{self, Backend, Buffer, KernelCall, LocalFuture, MemoryUse, View};
use tunesmith::kernels::{Access, KernelSpec, Kind, Requires, Texts};
use tunesmith::{DType, Device, Result, conformance};

const WORKGROUP_BYTES: u32 = 16 * 1024;
const STORAGE_BUFFERS: usize = 8;
const THREADS: u32 = 256;

type Constants = Vec<(&'static str, u32)>;
type Launches = Rc<RefCell<HashMap<(&'static str, Constants), &'static KernelSpec>>>;

/// The CPU, which also notes what is launched.
struct Recorder {
    cpu: Cpu,
    launches: Launches,
}

impl Backend for Recorder {
    fn capabilities(&self) -> &backend::Capabilities {
        self.cpu.capabilities()
    }
    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        self.cpu.alloc(dtype, len)
    }
    fn upload(&self, view: &View, bytes: &[u8]) -> Result<()> {
        self.cpu.upload(view, bytes)
    }
    fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>> {
        self.cpu.download(view)
    }
    fn launch(&self, call: &KernelCall) -> Result<()> {
        let key = (call.spec.name, call.constants.clone());
        self.launches.borrow_mut().insert(key, call.spec);
        self.cpu.launch(call)
    }
    fn synchronize(&self) -> LocalFuture<'_, Result<()>> {
        self.cpu.synchronize()
    }
    fn memory(&self) -> MemoryUse {
        self.cpu.memory()
    }
}

/// What the case table launches.
fn launches() -> HashMap<(&'static str, Constants), &'static KernelSpec> {
    let launches = Launches::default();
    let device = Device::new(Recorder { cpu: Cpu::new(), launches: launches.clone() });
    for case in conformance::cases() {
        conformance::verify(&case, &device)
            .unwrap_or_else(|e| panic!("{} {}: {e}", case.op, case.variant));
    }
    launches.take()
}

#[test]
fn every_shader_is_valid_and_portable_and_has_a_case() {
    let launches = launches();
    check_shaders(&launches);
    for spec in conformance::kernels().iter().filter(|spec| spec.requires == Requires::Portable) {
        assert!(launches.keys().any(|(name, _)| *name == spec.name), "no case runs {}", spec.name);
    }
}

fn check_shaders(launches: &HashMap<(&'static str, Constants), &'static KernelSpec>) {
    let portable = launches.iter().filter(|(_, spec)| spec.requires == Requires::Portable);
    for ((name, constants), spec) in portable {
        let source = Texts::default()
            .wgsl(spec.text, constants)
            .unwrap_or_else(|| panic!("{name}: no WGSL"));
        let problem = |what: String| -> ! { panic!("{name} with {constants:?}: {what}") };
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|e| problem(e.emit_to_string(&source)));
        // Every WebGPU device has it: half floats in words, for `unpack2x16float`.
        let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .validate(&module)
            .unwrap_or_else(|e| problem(e.emit_to_string(&source)));
        let index = module.entry_points.iter().position(|entry| entry.name == *name);
        let index = index.unwrap_or_else(|| problem("no such entry point".into()));
        check_entry_point(spec, &module, &module.entry_points[index], info.get_entry_point(index))
            .unwrap_or_else(|what| problem(what));
        translate(&module, &info).unwrap_or_else(|what| problem(what));
    }
}

fn check_entry_point(
    spec: &KernelSpec,
    module: &Module,
    entry: &EntryPoint,
    uses: &FunctionInfo,
) -> Result<(), String> {
    if entry.workgroup_size != spec.block || spec.block.iter().product::<u32>() > THREADS {
        return Err(format!("block {:?}, spec {:?}", entry.workgroup_size, spec.block));
    }
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).map_err(|e| e.to_string())?;
    let used = module.global_variables.iter().filter(|(handle, _)| !uses[*handle].is_empty());
    let mut found = vec![false; spec.bindings.len()];
    let mut workgroup_bytes = 0;
    for (_, variable) in used {
        let name = variable.name.as_deref().unwrap_or("?");
        match (variable.space, &variable.binding) {
            (AddressSpace::WorkGroup, _) => workgroup_bytes += layouter[variable.ty].size,
            (AddressSpace::Uniform, Some(place)) if (place.group, place.binding) == (1, 0) => {}
            (AddressSpace::Storage { access }, Some(place)) if place.group == 0 => {
                let index = place.binding as usize;
                let binding =
                    spec.bindings.get(index).ok_or(format!("{name} is not in the spec"))?;
                found[index] = true;
                let writes = access.contains(StorageAccess::STORE);
                if writes != (binding.access != Access::Read) {
                    return Err(format!("{name} and the spec differ in access"));
                }
                let TypeInner::Array { base, .. } = module.types[variable.ty].inner else {
                    return Err(format!("{name} is not an array"));
                };
                let kind = module.types[base].inner.scalar_kind();
                let floats = kind == Some(naga::ScalarKind::Float);
                if floats != (binding.kind == Kind::F32) {
                    return Err(format!("{name} is {kind:?}, the spec says {:?}", binding.kind));
                }
            }
            _ => return Err(format!("{name} is in no place a kernel may use")),
        }
    }
    if let Some(missing) = found.iter().position(|found| !found) {
        return Err(format!("{} is not used", spec.bindings[missing].name));
    }
    if found.len() > STORAGE_BUFFERS {
        return Err(format!("{} storage buffers", found.len()));
    }
    if workgroup_bytes > WORKGROUP_BYTES {
        return Err(format!("{workgroup_bytes} bytes of workgroup memory"));
    }
    Ok(())
}

fn translate(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    spv::write_vec(module, info, &spv::Options::default(), None).map_err(|e| e.to_string())?;
    msl::write_string(module, info, &msl::Options::default(), &msl::PipelineOptions::default())
        .map_err(|e| e.to_string())?;
    let (options, pipeline) = (hlsl::Options::default(), hlsl::PipelineOptions::default());
    hlsl::Writer::new(&mut String::new(), &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| e.to_string())?;
    Ok(())
}
