//! How the executables get at the library: see `src/library.rs`.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=needed-version");
    for variable in ["WASMEDGE_INCLUDE_DIR", "WHERRY_WASMEDGE_LOADER"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let feature = |name: &str| env::var_os(format!("CARGO_FEATURE_{name}")).is_some();
    if !feature("LIBRARY") {
        return Ok(());
    }
    // For the library, too: see src/stack.rs and src/pause.rs.
    for name in ["sigaction", "epoll_wait"] {
        link(&format!("--export-dynamic-symbol={name}"));
    }
    if feature("BUNDLED") {
        return Ok(());
    }
    let include = env::var("WASMEDGE_INCLUDE_DIR").map_err(
        |_| "WASMEDGE_INCLUDE_DIR is not set: build with `make`, or see shims/wasmedge/setup.sh",
    )?;
    println!("cargo::rustc-env=WASMEDGE_INCLUDE_DIR={include}");
    let names = functions(&Path::new(&include).join("wasmedge"))?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("trampolines.rs"), trampolines(&names)?)?;
    // A library that was fetched brings its own C library.
    if let Some(loader) = env::var_os("WHERRY_WASMEDGE_LOADER").filter(|path| !path.is_empty()) {
        let loader = Path::new(&loader);
        let folder = loader.parent().ok_or("the loader has no folder")?.display();
        for flag in [
            format!("--dynamic-linker={}", loader.display()),
            "--disable-new-dtags".to_owned(),
            format!("-rpath={folder}"),
        ] {
            link(&flag);
        }
    }
    Ok(())
}

/// Has the linker take a flag, for the executables that have the library.
fn link(flag: &str) {
    for executable in ["wherry-wasmedge", "wherry-wasmedge-host"] {
        println!("cargo::rustc-link-arg-bin={executable}=-Wl,{flag}");
    }
}

/// The functions of WasmEdge's C interface: what its headers name and call.
fn functions(headers: &Path) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let mut names = BTreeSet::new();
    for header in fs::read_dir(headers)? {
        let header = header?.path();
        println!("cargo::rerun-if-changed={}", header.display());
        let text = fs::read_to_string(&header)?;
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (start, _) in line.match_indices("WasmEdge_") {
                let rest = &line[start..];
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                if let Some((name, "(")) = end.map(|end| (&rest[..end], &rest[end..=end])) {
                    names.insert(name.to_owned());
                }
            }
        }
    }
    Ok(names)
}

/// For each function a jump to where the table says it is, and the table.
fn trampolines(names: &BTreeSet<String>) -> Result<String, Box<dyn Error>> {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    let mut code = String::new();
    for (index, name) in names.iter().enumerate() {
        let at = format!("wherry_wasmedge_table+{}", 8 * index);
        let jump = match architecture.as_str() {
            "x86_64" => format!("jmp qword ptr [rip + {at}]"),
            "aarch64" => format!("adrp x16, {at}\nldr x16, [x16, :lo12:{at}]\nbr x16"),
            other => return Err(format!("WasmEdge is not for {other}").into()),
        };
        code += &format!(".globl {name}\n.type {name}, @function\n{name}: {jump}\n");
    }
    let count = names.len();
    let list: Vec<String> = names.iter().map(|name| format!("c\"{name}\"")).collect();
    Ok(format!(
        "core::arch::global_asm!(r#\"
.text
{code}
.bss
.balign 8
.globl wherry_wasmedge_table
wherry_wasmedge_table: .zero {}
.text
\"#);
pub(super) const NAMES: [&core::ffi::CStr; {count}] = [{}];
",
        8 * count,
        list.join(", ")
    ))
}
