//! Edits a TOML file: adds and removes the runtimes' tables. The rest keeps its comments and order.

use toml_edit::{Array, Decor, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::{ANNOTATION_KEYS, COMMENT, ConfigError, Format, Runtime, Version};

const DEFAULT_COMMENT: &str = "# containerd's default, which containerd 1.x forgets once a runtime is named. Added by wherry-node.";

/// The settings of a main configuration file that concern the file itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// `None` for a file without any setting.
    pub(crate) version: Option<i64>,
    /// The patterns of files that it imports.
    pub(crate) imports: Vec<String>,
}

/// Parses a main configuration file. Returns an error for a version that this installer or
/// containerd does not support.
pub(crate) fn head(text: &str, containerd: Version) -> Result<Head, ConfigError> {
    let document = parse(text)?;
    if document.is_empty() {
        return Ok(Head { version: None, imports: Vec::new() });
    }
    let version = document.get("version").and_then(Item::as_integer).unwrap_or(1);
    let max = containerd.format_max();
    if version <= 1 {
        return Err(ConfigError::Version1);
    }
    if version > max {
        return Err(ConfigError::TooNew {
            found: version,
            containerd: containerd.to_string(),
            max,
        });
    }
    let imports = document.get("imports").and_then(Item::as_array);
    let imports = imports.into_iter().flatten().filter_map(|value| value.as_str());
    Ok(Head { version: Some(version), imports: imports.map(str::to_owned).collect() })
}

/// Whether a file has a table of the CRI plug-in's runtimes, or one around it.
pub(crate) fn has_plugin(text: &str, format: Format) -> bool {
    let Ok(document) = parse(text) else { return false };
    document.get("plugins").and_then(|plugins| plugins.get(format.plugin())).is_some()
}

/// Adds the runtimes, or changes those of the same name. A text without any setting gets `version`
/// too.
pub(crate) fn add(text: &str, version: i64, runtimes: &[Runtime]) -> Result<String, ConfigError> {
    add_beside(text, version, runtimes, None)
}

/// Like [`add`], for a containerd before 2.0 whose effective configuration is `effective`.
///
/// There a list of runtimes replaces the default list, which contains runc: a file that names its
/// first runtime would lose runc, and with it every pod of the node. So the runtimes that
/// containerd has and the file does not name are added to the file.
pub(crate) fn add_beside(
    text: &str,
    version: i64,
    runtimes: &[Runtime],
    effective: Option<&str>,
) -> Result<String, ConfigError> {
    let mut document = parse(text)?;
    let format = Format::of(version);
    if document.is_empty() {
        document.insert("version", toml_edit::value(version));
    }
    let mut item = document.as_item_mut();
    let mut path = Vec::new();
    for name in format.path() {
        path.push(name);
        item = child(item, name, &path)?;
    }
    let beside = match effective {
        Some(effective) => others(effective, format, item, runtimes)?,
        None => Vec::new(),
    };
    for (name, mut table) in beside.clone() {
        *table.decor_mut() = Decor::new(format!("\n{DEFAULT_COMMENT}\n"), "");
        if let Some(parent) = item.as_table_like_mut() {
            parent.insert(&name, Item::Table(table));
        }
    }
    for runtime in runtimes {
        path.push(&runtime.handler);
        let known = item.get(&runtime.handler).is_some();
        let table = child(item, &runtime.handler, &path)?;
        set(table, runtime, &mut path)?;
        if let (Item::Table(table), false) = (table, known) {
            table.set_implicit(false);
            *table.decor_mut() = Decor::new(format!("\n{COMMENT}\n"), "");
        }
        path.pop();
    }
    let edited = document.to_string();
    let mut handlers: Vec<&str> = runtimes.iter().map(|runtime| runtime.handler.as_str()).collect();
    handlers.extend(beside.iter().map(|(name, _)| name.as_str()));
    if without(&edited, format, &handlers)? == without(text, format, &handlers)? {
        Ok(edited)
    } else {
        Err(ConfigError::Lossy)
    }
}

/// Removes the runtimes of these names.
pub(crate) fn remove(text: &str, handlers: &[&str]) -> Result<String, ConfigError> {
    let mut document = parse(text)?;
    for format in [Format::V2, Format::V3] {
        let mut item = Some(document.as_item_mut());
        for name in format.path() {
            // Not `Item::get_mut`, which inserts missing tables.
            item = item.and_then(Item::as_table_like_mut).and_then(|table| table.get_mut(name));
        }
        if let Some(table) = item.and_then(Item::as_table_like_mut) {
            for handler in handlers {
                table.remove(handler);
            }
        }
    }
    Ok(document.to_string())
}

/// The runtimes of an effective configuration that the file does not name and that are not to be
/// added.
fn others(
    effective: &str,
    format: Format,
    file: &Item,
    runtimes: &[Runtime],
) -> Result<Vec<(String, Table)>, ConfigError> {
    let document = parse(effective)?;
    let mut item = Some(document.as_item());
    for name in format.path() {
        item = item.and_then(|item| item.get(name));
    }
    let tables = item.and_then(Item::as_table).into_iter().flat_map(Table::iter);
    let missing = tables.filter(|(name, _)| {
        file.get(name).is_none() && runtimes.iter().all(|runtime| runtime.handler != *name)
    });
    Ok(missing
        .filter_map(|(name, item)| Some((name.to_owned(), plain(item.as_table()?))))
        .collect())
}

/// A table without its position and white space in another document.
fn plain(table: &Table) -> Table {
    let mut copy = Table::new();
    for (key, item) in table {
        match item {
            Item::Value(value) => {
                drop(copy.insert(key, Item::Value(value.clone().decorated(" ", ""))))
            }
            Item::Table(inner) => drop(copy.insert(key, Item::Table(plain(inner)))),
            _ => {}
        }
    }
    copy
}

/// The parsed text without these runtimes, `version` and empty tables.
fn without(text: &str, format: Format, handlers: &[&str]) -> Result<toml::Table, ConfigError> {
    let mut table: toml::Table =
        toml::from_str(text).map_err(|e| ConfigError::Invalid(e.message().to_owned()))?;
    // Compared by containerd's own reading too; here a text without a setting gets it.
    table.remove("version");
    super::effective::remove(&mut table, &format.path(), handlers);
    Ok(table)
}

fn parse(text: &str) -> Result<DocumentMut, ConfigError> {
    text.parse::<DocumentMut>()
        .map_err(|e| ConfigError::Invalid(e.to_string().trim().replace('\n', " ")))
}

/// Returns the item of a name in a table. A missing one is added, in an inline table as an inline
/// table.
fn child<'i>(parent: &'i mut Item, name: &str, path: &[&str]) -> Result<&'i mut Item, ConfigError> {
    let inline = matches!(parent, Item::Value(_));
    let table = parent.as_table_like_mut().ok_or_else(|| not_a_table(path, 1))?;
    if !table.contains_key(name) {
        let fresh = if inline {
            Item::Value(Value::InlineTable(InlineTable::new()))
        } else {
            let mut table = Table::new();
            // No header: containerd's own files have none for the tables in between.
            table.set_implicit(true);
            Item::Table(table)
        };
        table.insert(name, fresh);
    }
    let item = table.get_mut(name).ok_or_else(|| not_a_table(path, 0))?;
    if item.is_table_like() { Ok(item) } else { Err(not_a_table(path, 0)) }
}

fn not_a_table(path: &[&str], up: usize) -> ConfigError {
    let names = path.iter().take(path.len().saturating_sub(up));
    ConfigError::NotATable(names.copied().collect::<Vec<_>>().join("."))
}

fn set(item: &mut Item, runtime: &Runtime, path: &mut Vec<&str>) -> Result<(), ConfigError> {
    {
        let table = item.as_table_like_mut().ok_or_else(|| not_a_table(path, 0))?;
        put(table, "runtime_type", Some(runtime.runtime_type.as_str().into()));
        put(table, "runtime_path", runtime.runtime_path.as_deref().map(Value::from));
        put(table, "sandboxer", runtime.sandboxer_key().map(Value::from));
        let no_pull = runtime.without_pause_image.then(|| Value::from(true));
        put(table, "disable_pause_image_pull", no_pull);
        for key in ANNOTATION_KEYS {
            // The list of an administrator may have more.
            if !runtime.annotations.is_empty() && !table.contains_key(key) {
                let list = runtime.annotations.iter().copied().collect::<Array>();
                put(table, key, Some(list.into()));
            }
        }
    }
    path.push("options");
    let options = child(item, "options", path)?;
    path.pop();
    if let Item::Table(table) = options {
        table.set_implicit(false);
    }
    if let Some(table) = options.as_table_like_mut() {
        put(table, "SystemdCgroup", Some(runtime.systemd_cgroup.into()));
    }
    Ok(())
}

/// Sets or removes a value. An equal value keeps its form and comments.
fn put(table: &mut dyn TableLike, key: &str, wanted: Option<Value>) {
    let text = |value: &Value| value.clone().decorated("", "").to_string();
    let found = table.get(key).and_then(Item::as_value).map(text);
    match wanted {
        None => drop(table.remove(key)),
        Some(wanted) if found == Some(text(&wanted)) => {}
        Some(wanted) => drop(table.insert(key, Item::Value(wanted))),
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
