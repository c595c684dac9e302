//! The pull of an image and its first run, and the converter of layers.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Instant;

use wherry_testing::{Capability, Daemon, Packed, Registry, bin_dir, engine_can, guests};

use super::cold::LARGE_SAYS;
use crate::images;
use crate::measures::{LAYER, PULLED_COLD, PULLED_COMPILED};
use crate::results::RUNC;
use crate::world::{World, is_native, milliseconds, output, runtime};

/// The size of the converted module.
const MODULE: usize = 256 << 20;

/// Pulls through a registry on loopback.
pub(crate) fn measure(world: &mut World) {
    let registry = Registry::start();
    let (wasm, _) = images::large();
    let native = images::large_native();
    let name = |image: &Packed| push(world, &registry, image);
    let (wasm, native) = (name(&wasm), name(&native));
    let module = world.code.with_file_name("large.wasm");
    fs::write(&module, guests::bytes("large.wasm")).expect("the folder is writable");
    for round in 0..=world.options.rounds_of(4) {
        for who in world.runtimes(false) {
            let image = if is_native(&who) { &native } else { &wasm };
            world.empty_cache();
            let took = pulled(world, &who, image, || {});
            if round == 0 {
                continue;
            }
            world.results.add(PULLED_COLD, &who, took);
            if who == RUNC {
                world.results.add(PULLED_COMPILED, &who, took);
            } else if engine_can(&who, Capability::Compiler) {
                world.empty_cache();
                let compile = || {
                    let mut command = Command::new(bin_dir().join(format!("wherry-{who}")));
                    command.arg("compile").arg(&module).env("WHERRY_CACHE_DIR", &world.code);
                    output(command);
                };
                let took = pulled(world, &who, image, compile);
                world.results.add(PULLED_COMPILED, &who, took);
            }
        }
    }
    let module = module_of(MODULE, &world.code.with_file_name("layer.wasm"));
    for _ in 0..world.options.rounds_of(2) {
        for engine in world.options.engines.clone() {
            let mut command = Command::new(bin_dir().join("wherry-layer"));
            command.stdin(File::open(&module).expect("it was written")).stdout(Stdio::null());
            let begin = Instant::now();
            assert!(command.status().expect("it runs").success());
            let seconds = begin.elapsed().as_secs_f64();
            world.results.add(LAYER, &engine, MODULE as f64 / 1e6 / seconds);
        }
    }
}

/// Pushes an image. Returns its name in the registry.
fn push(world: &World, registry: &Registry, image: &Packed) -> String {
    world.containerd.load(image);
    let tag = image.reference.rsplit(['/', ':']).nth(1).unwrap_or("image");
    let name = format!("{}/{tag}:1", registry.address());
    world.containerd.ctr(&["images", "tag", "--force", &image.reference, &name]).success();
    world.containerd.ctr(&["images", "push", "--plain-http", &name]).success();
    for name in [&image.reference, &name] {
        world.containerd.ctr(&["images", "rm", "--sync", name]).success();
    }
    name
}

/// Times the pull and the first run of an image, in milliseconds, without `between`.
fn pulled(world: &World, who: &str, name: &str, between: impl FnOnce()) -> f64 {
    world.settle();
    let mut command = world.containerd.ctr_command(&["images", "pull", "--plain-http", name]);
    command.stdout(Stdio::null());
    let begin = Instant::now();
    output(command);
    let pull = begin.elapsed();
    between();
    let (id, runtime) = (world.containerd.new_id(), runtime(who));
    let begin = Instant::now();
    let run = ["run", "--rm", "--runtime", &runtime, name, &id];
    assert_eq!(output(world.containerd.ctr_command(&run)), LARGE_SAYS, "the container's output");
    let took = milliseconds(pull + begin.elapsed());
    world.containerd.ctr(&["images", "rm", "--sync", name]).success();
    took
}

/// Writes a module of one custom section to a file.
fn module_of(size: usize, path: &std::path::Path) -> std::path::PathBuf {
    // The size of the section in five bytes of LEB128.
    let section = size - 14;
    let mut module = b"\0asm\x01\0\0\0\0".to_vec();
    let seven = |at: usize| u8::try_from(section >> (7 * at) & 0x7f).expect("seven bits");
    module.extend((0..5).map(|at| seven(at) | if at < 4 { 0x80 } else { 0 }));
    module.push(0);
    module.resize(size, 7);
    fs::write(path, module).expect("the folder is writable");
    path.to_owned()
}
