//! The commands of `wherry image`.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};
use wherry_image::MODULE_MAX;
use wherry_oci::build::{Properties, build, file_name};
use wherry_oci::daemon::{Docker, Stored};
use wherry_oci::media::Packaging;
use wherry_oci::module::Facts;
use wherry_oci::registry::{Registry, full_name};
use wherry_oci::{Data, Image, OciError, Platform, Progress, artifact, convert, inspect};

use crate::args::{self, Build, Common, Convert, Inspect, Ls, Pull, Push, Rm, Store};
use crate::compile;
use crate::error::{Error, Result};
use crate::places::{self, Source};
use crate::text;

/// Runs a command. Returns the text to print.
pub(crate) fn run(command: &args::Image, progress: &dyn Progress) -> Result<String> {
    match command {
        args::Image::Inspect(options) => run_inspect(options, progress),
        args::Image::Build(options) => run_build(options, progress),
        args::Image::Convert(options) => run_convert(options, progress),
        args::Image::Pull(options) => run_pull(options, progress),
        args::Image::Push(options) => run_push(options, progress),
        args::Image::Ls(options) => run_ls(options),
        args::Image::Rm(options) => run_rm(options),
    }
}

fn run_inspect(options: &Inspect, progress: &dyn Progress) -> Result<String> {
    let source = Source::parse(&options.source)?;
    if let Source::Module(path) = &source {
        let data = open(path)?;
        let name = path.display().to_string();
        let bytes = data.bytes("file", &name, MODULE_MAX)?;
        let facts = Facts::of(&bytes).map_err(Error::of(name.clone()))?;
        let size = bytes.len() as u64;
        return Ok(if options.common.json {
            let mut value = inspect::module_json(size, &facts);
            set(&mut value, "name", json!(name));
            text::json(&value)
        } else {
            text::module(&name, size, &facts)
        });
    }
    let image = source.read(&options.common, options.platform.as_ref(), progress)?;
    let name = image.name.clone().unwrap_or_else(|| options.source.clone());
    let described =
        inspect::describe(&image, options.platform.as_ref()).map_err(Error::of(name))?;
    let signed = match &source {
        Source::Registry(name) => {
            let registry = Registry::open(name, &options.common.registry(), progress)?;
            Some(registry.is_signed(&described.digest)?)
        }
        _ => None,
    };
    Ok(if options.common.json {
        let mut value = described.json();
        set(&mut value, "signed", json!(signed));
        text::json(&value)
    } else {
        text::description(&described, signed)
    })
}

fn set(value: &mut Value, key: &str, content: Value) {
    if let Some(object) = value.as_object_mut() {
        object.insert(key.to_owned(), content);
    }
}

fn open(path: &Path) -> Result<Data> {
    File::open(path)
        .and_then(Data::of_file)
        .map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn run_build(options: &Build, progress: &dyn Progress) -> Result<String> {
    let wasm = match Source::parse(&options.file.display().to_string())? {
        Source::Module(path) => open(&path)?,
        _ if options.file.exists() => return Err(Error::NotModule(options.file.clone())),
        _ => return Err(Error::NoFile(options.file.clone())),
    };
    let name = Some(full_name(&options.tag)?);
    let title = options.file.file_name().and_then(|name| name.to_str());
    let created = created()?;
    let labels = options.label.iter().cloned().collect();
    let named = || Error::of(options.file.display().to_string());
    let image = if options.artifact {
        let title = title.unwrap_or("app.wasm");
        artifact::make(&wasm, name, title, &labels, created.as_deref()).map_err(named())?
    } else {
        let mut properties = Properties::of(&file_name(title));
        properties.name = name;
        properties.entrypoint.clone_from(&options.entrypoint);
        properties.command.clone_from(&options.arg);
        properties.env = options.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        properties.labels = labels;
        properties.folders.clone_from(&options.layer);
        properties.working_dir.clone_from(&options.workdir);
        properties.user.clone_from(&options.user);
        properties.created = created;
        if !options.platform.is_empty() {
            properties.platforms.clone_from(&options.platform);
        }
        build(&wasm, &properties, None).map_err(named())?
    };
    store(&image, &options.to, &options.common, progress)
}

/// The time of new images: that of `SOURCE_DATE_EPOCH`, or none.
fn created() -> Result<Option<String>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let text = text.to_string_lossy().into_owned();
    let seconds: Option<u64> = text.parse().ok();
    seconds.and_then(text::rfc3339).map(Some).ok_or(Error::Epoch(text))
}

fn run_convert(options: &Convert, progress: &dyn Progress) -> Result<String> {
    let source = Source::parse(&options.source)?;
    let mut image = source.read(&options.common, None, progress)?;
    let tag = options.tag.as_deref().map(full_name).transpose()?;
    image.name = tag.or(image.name);
    let converted = match options.artifact {
        true => convert::to_artifact(&image),
        false => convert::to_image(&image, &Platform::usual()),
    };
    let converted = converted.map_err(Error::of(options.source.clone()))?;
    store(&converted, &options.to, &options.common, progress)
}

fn run_pull(options: &Pull, progress: &dyn Progress) -> Result<String> {
    let registry = Registry::open(&options.name, &options.common.registry(), progress)?;
    let pulled = registry.pull(None).map_err(Error::of(registry.name()))?;
    let named = || Error::of(registry.name());
    let manifest = pulled.preferred(None).map_err(named())?;
    let image = match Packaging::of(&manifest.content) {
        // What clients run stays as it is. Of an index for more machines, this one's manifest.
        Packaging::Image if pulled.is_complete().map_err(named())? => pulled,
        Packaging::Image => {
            let own = pulled.preferred(Some(&Platform::own())).unwrap_or(manifest);
            pulled.only(&own).map_err(named())?
        }
        _ => convert::to_image(&pulled, &Platform::usual()).map_err(named())?,
    };
    let text = store(&image, &options.to, &options.common, progress)?;
    if options.compile.is_empty() {
        return Ok(text);
    }
    let done = compile::compile(&image, &options.compile, progress)?;
    if options.common.json {
        let mut value: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!({}));
        set(&mut value, "compiled", json!(done));
        return Ok(text::json(&value));
    }
    Ok(format!("{text}compiled for {}\n", done.join(", ")))
}

fn run_push(options: &Push, progress: &dyn Progress) -> Result<String> {
    let source = Source::parse(&options.source)?;
    if let Source::Registry(name) = &source {
        // A source that is neither a file nor in a store was meant to be one of them.
        let reason = "push takes a layout, its archive, containerd:NAME or docker:NAME".to_owned();
        return Err(OciError::Reference { name: name.clone(), reason }.into());
    }
    let mut image = source.read(&options.common, None, progress)?;
    let registry = Registry::open(&options.name, &options.common.registry(), progress)?;
    image.name = Some(registry.name());
    registry.push(&image)?;
    Ok(report(&image, "the registry", options.common.json))
}

/// Writes an image to its destination. Returns the text to print.
fn store(
    image: &Image,
    to: &args::Destination,
    common: &Common,
    progress: &dyn Progress,
) -> Result<String> {
    let place = places::write(image, to, common, progress)?;
    // Standard output has the archive.
    if to.to == "-" {
        return Ok(String::new());
    }
    Ok(report(image, &place, common.json))
}

fn report(image: &Image, place: &str, json: bool) -> String {
    let digest = image.root.digest().to_string();
    let name = image.name.as_deref().unwrap_or_default();
    if json {
        let size = image.size();
        return text::json(&json!({"name": name, "digest": digest, "bytes": size, "to": place}));
    }
    format!("{} is in {place}\n", format!("{name} {digest}").trim_start())
}

fn run_ls(options: &Ls) -> Result<String> {
    let mut found = match options.from {
        Store::Containerd => places::containerd(&options.common).list()?,
        Store::Docker => Docker.list()?,
    };
    found.retain(|image| options.all || image.is_wasm());
    if !options.common.json {
        return Ok(text::list(&found));
    }
    let value = |image: &Stored| {
        json!({
            "name": image.name,
            "digest": image.digest,
            "platforms": image.platforms,
            "size": image.size,
            "wasm": image.is_wasm(),
        })
    };
    Ok(text::json(&json!(found.iter().map(value).collect::<Vec<_>>())))
}

fn run_rm(options: &Rm) -> Result<String> {
    let mut removed = Vec::new();
    for name in &options.names {
        let name = full_name(name)?;
        match options.from {
            Store::Containerd => places::containerd(&options.common).remove(&name)?,
            Store::Docker => Docker.remove(&name)?,
        }
        removed.push(name);
    }
    Ok(match options.common.json {
        true => text::json(&json!({"removed": removed})),
        false => format!("removed {}\n", removed.join(", ")),
    })
}
