//! A layer of any bytes: the converter refuses it and writes nothing, or the archive has it as its
//! only file.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use wherry_layer::convert;
use wherry_layer::framing::Framing;

fuzz_target!(|bytes: &[u8]| {
    let mut output = Vec::new();
    let converted = convert(bytes, &mut output, "/app.wasm");

    // The pieces in which a layer arrives do not matter.
    for size in [1, 3, 64] {
        let mut framing = Framing::default();
        let fed = bytes.chunks(size).try_for_each(|piece| framing.feed(piece));
        assert_eq!(fed.and_then(|()| framing.finish()).is_ok(), converted.is_ok());
    }
    match converted {
        Err(_) => assert!(output.is_empty()),
        Ok(size) => {
            assert_eq!(size, bytes.len() as u64);
            let mut archive = tar::Archive::new(output.as_slice());
            let mut entries = archive.entries().expect("it is an archive");
            let mut entry = entries.next().expect("it has a file").expect("it is whole");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("it is in memory");
            assert_eq!(content, bytes);
            assert!(entries.next().is_none());
        }
    }
});
