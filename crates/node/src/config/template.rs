//! Edits a Go template of k3s or rke2, which is not TOML: adds and removes a block between two
//! marks.

use super::{ANNOTATION_KEYS, Format, Runtime};

const BEGIN: &str = "# wherry-node: begin (`wherry-node uninstall` removes this)";
const END: &str = "# wherry-node: end";
/// A template that includes k3s' own, to add to it.
const BASE: &str = "{{ template \"base\" . }}\n";

/// Returns the template with a block of these runtimes. Without a template the block is added to
/// [`BASE`].
pub(crate) fn add(text: Option<&str>, format: Format, runtimes: &[Runtime]) -> String {
    let rest = text.map_or_else(|| BASE.to_owned(), remove);
    let mut block = String::new();
    for runtime in runtimes {
        let table =
            format!("plugins.\"{}\".containerd.runtimes.\"{}\"", format.plugin(), runtime.handler);
        block += &format!("[{table}]\n  runtime_type = \"{}\"\n", runtime.runtime_type);
        if let Some(path) = &runtime.runtime_path {
            block += &format!("  runtime_path = \"{path}\"\n");
        }
        if let Some(sandboxer) = runtime.sandboxer_key() {
            block += &format!("  sandboxer = \"{sandboxer}\"\n");
        }
        if runtime.without_pause_image {
            block += "  disable_pause_image_pull = true\n";
        }
        if !runtime.annotations.is_empty() {
            for key in ANNOTATION_KEYS {
                // Strings of ASCII: their form in Rust is that in TOML.
                block += &format!("  {key} = {:?}\n", runtime.annotations);
            }
        }
        block += &format!("[{table}.options]\n  SystemdCgroup = {}\n", runtime.systemd_cgroup);
    }
    let gap = if rest.is_empty() || rest.ends_with('\n') { "" } else { "\n" };
    format!("{rest}{gap}{BEGIN}\n{block}{END}\n")
}

/// The template without our block.
pub(crate) fn remove(text: &str) -> String {
    let found = text.find(BEGIN).and_then(|begin| {
        let rest = text.get(begin..)?;
        let end = begin + rest.find(END)? + END.len();
        Some((text.get(..begin)?, text.get(end..)?))
    });
    found.map_or_else(
        || text.to_owned(),
        |(before, after)| before.to_owned() + after.strip_prefix('\n').unwrap_or(after),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sandboxer, Version};
    use std::path::Path;

    fn runtimes() -> Vec<Runtime> {
        let dir = Path::new("/opt/wherry/bin");
        let (version, sandboxer) = (Version::new(2, 1), Sandboxer::Podsandbox);
        vec![Runtime::new("wasmtime", dir, false, version, true, sandboxer)]
    }

    #[test]
    fn a_new_template_takes_the_base() {
        assert_eq!(
            add(None, Format::V3, &runtimes()),
            r#"{{ template "base" . }}
# wherry-node: begin (`wherry-node uninstall` removes this)
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes."wasmtime"]
  runtime_type = "io.containerd.runc.v2"
  runtime_path = "/opt/wherry/bin/containerd-shim-wasmtime-v1"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes."wasmtime".options]
  SystemdCgroup = true
# wherry-node: end
"#
        );
    }

    #[test]
    fn pods_can_be_left_to_the_shim() {
        let (dir, version) = (Path::new("/opt/wherry/bin"), Version::new(2, 4));
        let runtime = Runtime::new("wamr", dir, false, version, false, Sandboxer::Shim);
        let text = add(None, Format::V3, &[runtime]);
        let lines = "  runtime_type = \"/opt/wherry/bin/containerd-shim-wamr-v1\"
  sandboxer = \"shim\"
  disable_pause_image_pull = true
";
        assert!(text.contains(lines), "{text}");
    }

    #[test]
    fn a_template_that_is_there_is_extended_and_restored() {
        let text = "version = 2\n{{ if .X }}\n[x]\n{{ end }}\n";
        let edited = add(Some(text), Format::V2, &runtimes());
        assert!(edited.starts_with(text), "{edited}");
        assert!(edited.contains("io.containerd.grpc.v1.cri"), "{edited}");
        assert_eq!(add(Some(&edited), Format::V2, &runtimes()), edited);
        assert_eq!(remove(&edited), text);
    }
}
