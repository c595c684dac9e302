//! `componentize IN.wasm OUT.wasm` converts a command module of WASI preview 1 to a component,
//! `componentize --reactor IN.wasm OUT.wasm` one without `_start`.
//!
//! `componentize --bindings WORLD.wit WORLD FOLDER` writes the C bindings of a world: WORLD.c,
//! WORLD.h and WORLD_component_type.o, to be linked into such a module.

use std::path::Path;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER as COMMAND,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as REACTOR,
};
use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::Files;
use wit_component::ComponentEncoder;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--bindings", wit, world, folder] => bindings(Path::new(wit), world, Path::new(folder)),
        ["--reactor", from, to] => componentize(REACTOR, Path::new(from), Path::new(to)),
        [from, to] => componentize(COMMAND, Path::new(from), Path::new(to)),
        _ => bail!("usage: componentize [--reactor] IN.wasm OUT.wasm | --bindings FILE.wit WORLD FOLDER"),
    }
}

fn componentize(adapter: &[u8], from: &Path, to: &Path) -> Result<()> {
    let module = fs::read(from).with_context(|| from.display().to_string())?;
    let component = ComponentEncoder::default()
        .module(&module)?
        .adapter(ADAPTER, adapter)?
        .encode()?;
    fs::write(to, component).with_context(|| to.display().to_string())
}

fn bindings(wit: &Path, world: &str, folder: &Path) -> Result<()> {
    let mut resolve = Resolve::default();
    let package = resolve.push_file(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    fs::create_dir_all(folder)?;
    for (name, content) in files.iter() {
        fs::write(folder.join(name), content).with_context(|| name.to_owned())?;
    }
    Ok(())
}
