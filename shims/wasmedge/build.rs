//! Generates the jumps to WasmEdge's library (see `src/library.rs`) and the stub of LLVM's.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=needed-version");
    for variable in ["WASMEDGE_INCLUDE_DIR", "WASMEDGE_LIB_DIR", "WHERRY_WASMEDGE_LOADER"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let feature = |name: &str| env::var_os(format!("CARGO_FEATURE_{name}")).is_some();
    if !feature("LIBRARY") {
        return Ok(());
    }
    // The library must use them too: see src/stack.rs and src/pause.rs.
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
    #[cfg(feature = "library")]
    stub::make(&out)?;
    // A fetched library needs the C library it was built with.
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

/// Passes a flag to the linker of the executables with the library.
fn link(flag: &str) {
    for executable in ["wherry-wasmedge", "wherry-wasmedge-host"] {
        println!("cargo::rustc-link-arg-bin={executable}=-Wl,{flag}");
    }
}

/// Returns the names of the functions that WasmEdge's C headers declare.
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

/// Returns the source of a jump for each function, and of the table that they use.
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

/// The stub that the engine host loads instead of LLVM's library: see `src/llvm.rs`.
#[cfg(feature = "library")]
mod stub {
    use std::collections::BTreeMap;
    use std::error::Error;
    use std::fmt::Write;
    use std::path::Path;
    use std::process::Command;
    use std::{env, fs};

    use object::read::elf::{FileHeader, Sym, SymbolTable};
    use object::{Endianness, elf};

    type Header = elf::FileHeader64<Endianness>;

    type Result<T> = std::result::Result<T, Box<dyn Error>>;

    /// The soname of LLVM's library and the symbols that WasmEdge's library imports from it.
    struct Llvm {
        soname: String,
        symbols: Vec<Symbol>,
    }

    /// An imported symbol.
    struct Symbol {
        name: String,
        version: String,
        kind: u8,
    }

    /// Writes `llvm.so`, which is empty if WasmEdge's library is not linked to LLVM's.
    pub(super) fn make(out: &Path) -> Result<()> {
        let folder = env::var_os("WASMEDGE_LIB_DIR").ok_or("WASMEDGE_LIB_DIR is not set")?;
        let library = Path::new(&folder).join("libwasmedge.so");
        println!("cargo::rerun-if-changed={}", library.display());
        let target = out.join("llvm.so");
        let Some(Llvm { soname, symbols }) = imports(&fs::read(&library)?)? else {
            return Ok(fs::write(target, [])?);
        };
        let (code, versions) = (out.join("llvm.s"), out.join("llvm.map"));
        fs::write(&code, assembly(&symbols)?)?;
        fs::write(&versions, version_script(&symbols))?;
        let mut command = Command::new("cc");
        command.args(["-shared", "-nostdlib", "-Wl,-s", "-Wl,--hash-style=gnu"]);
        command.arg(format!("-Wl,-soname={soname},--version-script={}", versions.display()));
        if command.arg("-o").arg(target).arg(code).status()?.success() {
            return Ok(());
        }
        Err("the C compiler `cc` failed to build the stub of LLVM's library".into())
    }

    /// Returns the library's undefined symbols that LLVM defines, and the soname of LLVM's library.
    fn imports(library: &[u8]) -> Result<Option<Llvm>> {
        let header = Header::parse(library)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, library)?;
        let symbols: SymbolTable<'_, Header> =
            sections.symbols(endian, library, elf::SHT_DYNSYM)?;
        let Some(versions) = sections.versions(endian, library)? else { return Ok(None) };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (mut soname, mut found) = (None, Vec::new());
        for (index, symbol) in symbols.enumerate() {
            let version = versions.version(versions.version_index(endian, index))?;
            let Some((version, file)) = version.and_then(|it| Some((it, it.file()?))) else {
                continue;
            };
            if symbol.is_undefined(endian) && file.starts_with(b"libLLVM") {
                soname = Some(text(file));
                let name = text(symbol.name(endian, symbols.strings())?);
                let version = text(version.name());
                found.push(Symbol { name, version, kind: symbol.st_type() });
            }
        }
        Ok(soname.map(|soname| Llvm { soname, symbols: found }))
    }

    /// Returns the assembly of the stub: functions and data of which only the addresses are used.
    fn assembly(symbols: &[Symbol]) -> Result<String> {
        let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
        let trap = if architecture == "x86_64" { "ud2" } else { "udf #0" };
        let mut text = format!(".text\nfunction: {trap}\n.bss\n.balign 64\ndata: .zero 64\n");
        text += ".section .tbss,\"awT\",%nobits\n.balign 8\nlocal: .zero 8\n";
        text += ".section .note.GNU-stack,\"\",%progbits\n";
        for Symbol { name, kind, .. } in symbols {
            let (kind, place) = match *kind {
                elf::STT_TLS => ("tls_object", "local"),
                elf::STT_OBJECT => ("object", "data"),
                _ => ("function", "function"),
            };
            writeln!(text, ".globl {name}\n.type {name}, %{kind}\n.set {name}, {place}")?;
        }
        Ok(text)
    }

    fn version_script(symbols: &[Symbol]) -> String {
        let mut versions: BTreeMap<&str, String> = BTreeMap::new();
        for Symbol { name, version, .. } in symbols {
            *versions.entry(version).or_default() += &format!("    {name};\n");
        }
        let versions = versions
            .iter()
            .map(|(version, names)| format!("{version} {{\n  global:\n{names}}};\n"));
        versions.collect()
    }
}
