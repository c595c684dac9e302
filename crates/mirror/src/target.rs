//! The registry and the content that a request names.

use crate::Upstream;

/// The content of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A manifest or index by its tag.
    Tag(String),
    /// A manifest or index by its digest.
    Manifest(String),
    /// A blob by its digest.
    Blob(String),
    /// Anything else, such as `/v2/` itself.
    Other,
}

/// A request's registry and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The registry.
    pub(crate) registry: Upstream,
    /// The image's name without the registry, or nothing.
    pub(crate) name: String,
    /// The content.
    pub(crate) content: Content,
    /// The path for the registry, with the query but for the name of the registry.
    pub(crate) path: String,
}

impl Target {
    /// Parses a request. containerd adds the registry's name as `ns`. `None`: it is for a registry
    /// that is not mirrored.
    pub(crate) fn parse(path: &str, query: Option<&str>, known: &[Upstream]) -> Option<Target> {
        let pairs: Vec<&str> =
            query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).collect();
        let named = pairs.iter().find_map(|pair| pair.strip_prefix("ns="));
        let registry = match (named, known) {
            (Some(name), _) => {
                // The only character of a registry's name that a query has in another form.
                let name = name.replace("%3A", ":").replace("%3a", ":");
                known.iter().find(|registry| registry.name == name)?
            }
            (None, [only]) => only,
            (None, _) => return None,
        };
        let (name, content) = parse_path(path);
        let rest: Vec<&str> = pairs.into_iter().filter(|pair| !pair.starts_with("ns=")).collect();
        let mark = if rest.is_empty() { "" } else { "?" };
        let path = format!("{path}{mark}{}", rest.join("&"));
        Some(Target { registry: registry.clone(), name, content, path })
    }
}

fn parse_path(path: &str) -> (String, Content) {
    let other = (String::new(), Content::Other);
    let Some(rest) = path.strip_prefix("/v2/") else { return other };
    let Some((rest, last)) = rest.rsplit_once('/') else { return other };
    let Some((name, kind)) = rest.rsplit_once('/') else { return other };
    let content = match kind {
        "manifests" if last.contains(':') => Content::Manifest(last.to_owned()),
        "manifests" => Content::Tag(last.to_owned()),
        "blobs" => Content::Blob(last.to_owned()),
        _ => return other,
    };
    (name.to_owned(), content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[&str]) -> Vec<Upstream> {
        let known = |name: &&str| Upstream { name: (*name).to_owned(), plain_http: false };
        names.iter().map(known).collect()
    }

    #[test]
    fn a_request_names_its_registry_and_its_content() {
        let known = known(&["a.example", "localhost:5000"]);
        let parse = |path: &str, query: &str| Target::parse(path, Some(query), &known);
        let tag = parse("/v2/my/app/manifests/1.0", "ns=localhost%3A5000").unwrap();
        assert_eq!(tag.registry.name, "localhost:5000");
        assert_eq!((tag.name.as_str(), tag.path.as_str()), ("my/app", "/v2/my/app/manifests/1.0"));
        assert_eq!(tag.content, Content::Tag("1.0".to_owned()));
        let blob = parse("/v2/app/blobs/sha256:00", "ns=a.example&x=y").unwrap();
        assert_eq!(blob.path, "/v2/app/blobs/sha256:00?x=y");
        assert_eq!(blob.content, Content::Blob("sha256:00".to_owned()));
        assert_eq!(parse("/v2/", "ns=a.example").unwrap().content, Content::Other);
        assert_eq!(parse("/v2/app/manifests/1", "ns=other.example"), None);
        assert_eq!(parse("/v2/app/manifests/1", ""), None);
    }

    #[test]
    fn the_only_registry_needs_no_name() {
        let target = Target::parse("/v2/a/manifests/sha256:00", None, &known(&["a.example"]));
        assert_eq!(target.unwrap().content, Content::Manifest("sha256:00".to_owned()));
    }
}
