//! An artifact whose configuration, annotations and binary are any bytes: it is described and
//! converted, or refused with an error.
//!
//! Input: the configuration, a zero byte, and the binary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wherry_oci::module::Facts;
use wherry_oci::{Data, Platform, artifact, convert, inspect};

fuzz_target!(|bytes: &[u8]| {
    let split = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (config, wasm) = bytes.split_at(split);
    let wasm = wasm.get(1..).unwrap_or_default();
    if let Ok(config) = artifact::WasmConfig::parse(config) {
        // It survives a copy.
        let copy = serde_json::to_vec(&config).expect("it has JSON");
        assert_eq!(artifact::WasmConfig::parse(&copy).as_ref(), Ok(&config));
    }
    let Ok(facts) = Facts::of(wasm) else { return };
    assert_eq!(facts.engines.len(), 3);
    let title = String::from_utf8_lossy(config);
    let labels = [("key".to_owned(), title.clone().into_owned())].into_iter().collect();
    let data = Data::from(wasm.to_vec());
    let Ok(image) = artifact::make(&data, None, &title, &labels, None) else { return };
    inspect::describe(&image, None).expect("it was made here");
    if let Ok(converted) = convert::to_image(&image, &Platform::usual()) {
        converted.verify().expect("it was made here");
        let back = convert::to_artifact(&converted).expect("it keeps the original");
        assert_eq!(back.root.digest(), image.root.digest());
    }
});
