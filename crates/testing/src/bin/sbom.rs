//! Writes a bill of materials: `cargo metadata … | sbom PACKAGE…`, CycloneDX 1.5 on standard
//! output.
//!
//! It lists the packages that are linked into the executables of these packages of the workspace,
//! build scripts and their needs included: they run on the machine that builds.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{self, Read};

use serde_json::{Value, json};

fn main() {
    let wanted: Vec<String> = env::args().skip(1).collect();
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).expect("the output of cargo metadata on standard input");
    let metadata: Value = serde_json::from_str(&text).expect("JSON");
    let packages: BTreeMap<&str, &Value> = array(&metadata["packages"])
        .map(|package| (package["id"].as_str().expect("an id"), package))
        .collect();
    let used = used(&metadata, &packages, &wanted);
    let components: Vec<Value> = used.iter().map(|id| component(packages[id])).collect();
    let version =
        used.iter().map(|id| packages[id]).find(|package| package["name"] == "wherry-node");
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "name": "wherry",
            "version": version.map(|package| &package["version"]),
        }},
        "components": components,
    });
    println!("{}", serde_json::to_string_pretty(&bill).expect("JSON of plain values"));
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The ids of all packages that the wanted ones need, but for tests.
fn used<'m>(
    metadata: &'m Value,
    packages: &BTreeMap<&'m str, &'m Value>,
    wanted: &[String],
) -> BTreeSet<&'m str> {
    let nodes: BTreeMap<&str, &Value> = array(&metadata["resolve"]["nodes"])
        .map(|node| (node["id"].as_str().expect("an id"), node))
        .collect();
    let name = |id: &str| packages[id]["name"].as_str().expect("a name").to_owned();
    let mut rest: Vec<&str> =
        packages.keys().copied().filter(|id| wanted.contains(&name(id))).collect();
    assert_eq!(rest.len(), wanted.len(), "a package of {wanted:?} is not in the workspace");
    let mut used = BTreeSet::new();
    while let Some(id) = rest.pop() {
        if !used.insert(id) {
            continue;
        }
        for dependency in array(&nodes[id]["deps"]) {
            let for_tests_alone = array(&dependency["dep_kinds"]).all(|kind| kind["kind"] == "dev");
            if !for_tests_alone {
                rest.push(dependency["pkg"].as_str().expect("an id"));
            }
        }
    }
    used
}

fn component(package: &Value) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let (name, version) = (text("name"), text("version"));
    let mut component = json!({
        "type": "library",
        "bom-ref": format!("pkg:cargo/{name}@{version}"),
        "name": name,
        "version": version,
        "licenses": [{"expression": text("license").replace('/', " OR ")}],
    });
    // A package of the workspace is in no registry.
    if !text("source").is_empty() {
        component["purl"] = json!(format!("pkg:cargo/{name}@{version}"));
    }
    component
}
