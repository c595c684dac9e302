//! The output of the command `version`.

use super::Host;

pub fn the_engine_its_version_and_its_date_are_named(host: &Host) {
    let said = host.says("version");
    let lines: Vec<&str> = said.lines().collect();
    let &[version, advisories] = lines.as_slice() else { panic!("two lines: {said}") };
    let head = format!("{} {}, engine ", host.name(), env!("CARGO_PKG_VERSION"));
    let engine = version.strip_prefix(&head).unwrap_or_else(|| panic!("{head:?}: {version}"));
    let words: Vec<&str> = engine.split(' ').collect();
    let &[engine, number, "of", ..] = words.as_slice() else { panic!("{version}") };
    assert_eq!(format!("wherry-{}", engine.to_lowercase()), host.name());
    assert!(number.split('.').all(|part| part.parse::<u32>().is_ok()), "{number}");
    // A machine's own library may be of a version that the build does not know.
    let date = words.last().filter(|_| words.len() == 4);
    if let Some(date) = date {
        let parts: Vec<Option<u32>> = date.split('-').map(|part| part.parse().ok()).collect();
        assert!(matches!(parts[..], [Some(2020..), Some(1..=12), Some(1..=31)]), "{date}");
    } else {
        assert!(version.ends_with(" of a day that this build does not know"), "{version}");
    }
    assert!(
        advisories.starts_with("advisories: the security page of the project "),
        "{advisories}"
    );
}
