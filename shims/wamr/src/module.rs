//! Core modules of WASI preview 1, through WAMR's C interface. A process runs one module and exits,
//! so nothing is freed.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use wamrx_sys::*;
use wherry_engine::check::{self, runtimes};
use wherry_engine::{
    ExitCode, Export, Guest, LoadError, Network, Program, Start, Trap, find_entry,
};

use crate::context::{self, STACK};

/// WAMR's exception for a call of `proc_exit`.
const EXIT: &str = "Exception: wasi proc exit";

unsafe extern "C" {
    /// The C library's standard output.
    static mut stdout: *mut libc::FILE;
}

/// Initialises WAMR for this process and its children. Returns false on failure.
pub(crate) fn init() -> bool {
    // SAFETY: this is the first call of WAMR, in a single-threaded process. WAMR prints diagnostics
    // to the C library's stdout, which must not mix with the guest's output; no other code prints
    // there.
    unsafe {
        stdout = libc::fmemopen(ptr::null_mut(), 1, c"w".as_ptr());
        wasm_runtime_set_log_level(WASM_LOG_LEVEL_FATAL);
        !stdout.is_null() && wasm_runtime_init()
    }
}

/// The version of the linked WAMR.
pub(crate) fn version() -> String {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: it writes the three numbers.
    unsafe { wasm_runtime_get_version(&raw mut major, &raw mut minor, &raw mut patch) };
    format!("{major}.{minor}.{patch}")
}

/// A module with all imports resolved, its context, and the function to call.
struct Ready(wasm_module_t, *mut InstantiationArgs2, CString);

pub(crate) fn load(file: &[u8], guest: &Guest) -> Result<Box<dyn Program>, LoadError> {
    let wasm = &*wat::parse_bytes(file).map_err(|error| {
        let text = error.to_string();
        LoadError::Invalid(text.split_whitespace().collect::<Vec<_>>().join(" "))
    })?;
    let loaded = load_module(wasm, guest);
    let (module, entry) = loaded.map_err(|error| check(wasm, guest).err().unwrap_or(error))?;
    Ok(Box::new(Ready(module, context::build(guest)?, entry)))
}

/// Loads a module, and finds its imports and its entry function.
fn load_module(wasm: &[u8], guest: &Guest) -> Result<(wasm_module_t, CString), LoadError> {
    let (mut buffer, name) = (wasm.to_vec(), c"".as_ptr().cast_mut());
    let args = LoadArgs { name, wasm_binary_freeable: true, ..LoadArgs::default() };
    // SAFETY: WAMR is initialised, and the buffer is WAMR's to change for this call only.
    let module = call(|text, room| unsafe {
        wasm_runtime_load_ex(buffer.as_mut_ptr(), buffer.len() as u32, &raw const args, text, room)
    });
    let module =
        module.map_err(|text| LoadError::Unsupported(format!("WAMR cannot run it: {text}")))?;
    // SAFETY: the module was loaded.
    unsafe {
        check_imports(module, guest.network)?;
        Ok((module, entry(module, guest.function.as_deref())?))
    }
}

/// Returns the error for a module that WAMR refuses: WAMR's has no offset, and calls a feature that
/// it does not support invalid. Validating every module would delay each start.
fn check(wasm: &[u8], guest: &Guest) -> Result<(), LoadError> {
    let start = Start { function: guest.function.clone(), ..Start::default() };
    check::check(wasm, &runtimes::wamr(), Some(&start))
}

/// # Safety
/// The module is loaded.
unsafe fn check_imports(module: wasm_module_t, network: Network) -> Result<(), LoadError> {
    let mut import = wasm_import_t::default();
    let mut missing = Vec::new();
    // SAFETY: by this function's contract; an import exists at each index, and its strings are the
    // module's.
    unsafe {
        for index in 0..wasm_runtime_get_import_count(module) {
            wasm_runtime_get_import_type(module, index, &raw mut import);
            let (from, name) = (string(import.module_name), string(import.name));
            if !import.linked {
                missing.push(format!("{from}::{name}"));
            } else if network == Network::None
                && matches!(&*name, "sock_open" | "sock_addr_resolve")
            {
                // Without these two, the other socket functions have no socket to work on.
                return Err(LoadError::Engine(format!("import {name}: the guest has no network")));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(LoadError::MissingImports {
        imports: missing,
        provided: runtimes::wamr().provided.to_owned(),
    })
}

/// Returns the export to call. An entry function takes no parameters, because a container has no
/// values for them.
///
/// # Safety
/// The module is loaded.
unsafe fn entry(module: wasm_module_t, function: Option<&str>) -> Result<CString, LoadError> {
    let mut exports = Vec::new();
    let mut export = wasm_export_t::default();
    // SAFETY: by this function's contract; an export exists at each index, its name is the
    // module's, and only a function has a function's type.
    unsafe {
        for index in 0..wasm_runtime_get_export_count(module) {
            wasm_runtime_get_export_type(module, index, &raw mut export);
            let callable = export.kind == WASM_IMPORT_EXPORT_KIND_FUNC
                && wasm_func_type_get_param_count(export.u.func_type) == 0;
            exports.extend(
                callable.then(|| Export::function(&string(export.name), "()".into(), true)),
            );
        }
    }
    let entry = find_entry(&exports, function, |name| name == "_start", "_start")?;
    CString::new(&*entry.name)
        .map_err(|_| LoadError::Engine(format!("export {:?} holds a NUL byte", entry.name)))
}

impl Program for Ready {
    fn run(self: Box<Self>) -> Result<ExitCode, Trap> {
        let Ready(module, context, entry) = *self;
        // SAFETY: module and context are never freed, nor are the instance and environment. The
        // functions exist and take no parameters, no result has more than four words, and the stack
        // is anonymous memory.
        unsafe {
            let made = call(|text, room| wasm_runtime_instantiate_ex2(module, context, text, room));
            let instance = made.map_err(Trap)?;
            let env = wasm_runtime_get_exec_env_singleton(instance);
            if env.is_null() {
                return Err(Trap("out of memory for the interpreter's stack".to_owned()));
            }
            // WAMR has zeroed the stack, which touches its pages. Returning them to the kernel
            // saves the memory, and they read as zero again.
            let (page, stack) = (1 << 16, STACK as usize);
            let start = env.addr().next_multiple_of(page) + page;
            libc::madvise(start as *mut c_void, stack - 3 * page, libc::MADV_DONTNEED);
            // The export that a reactor needs called first. WAMR has called it if the module
            // imports WASI.
            let first = Some(c"_initialize")
                .filter(|&name| !wasm_runtime_is_wasi_mode(instance) && name != &*entry);
            let calls = first.into_iter().chain([&*entry]);
            let functions = calls.map(|name| wasm_runtime_lookup_function(instance, name.as_ptr()));
            for function in functions.filter(|function| !function.is_null()) {
                let words = 4 * wasm_func_get_result_count(function, instance) as usize;
                if !wasm_runtime_call_wasm(env, function, 0, vec![0; words].as_mut_ptr()) {
                    return match &*string(wasm_runtime_get_exception(instance)) {
                        EXIT => Ok(ExitCode(wasm_runtime_get_wasi_exit_code(instance) as u8)),
                        cause => Err(Trap(cause.replace("Exception: ", ""))),
                    };
                }
            }
        }
        Ok(ExitCode(0))
    }
}

/// Calls WAMR, and returns its result or its error text.
fn call<T>(wamr: impl FnOnce(*mut c_char, u32) -> *mut T) -> Result<*mut T, String> {
    let mut text = [0_u8; 256];
    let made = wamr(text.as_mut_ptr().cast(), text.len() as u32);
    // SAFETY: WAMR's text ends in NUL; without a text the buffer is zeroed.
    if made.is_null() { Err(unsafe { string(text.as_ptr().cast()) }) } else { Ok(made) }
}

/// # Safety
/// `text` points to a string that ends in NUL.
unsafe fn string(text: *const c_char) -> String {
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
