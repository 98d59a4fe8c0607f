//! One process per component on one SQLite file: each is killed in turn while the others go on, and all of it comes to what one process
//! in memory comes to.

use crate::platform::Launch;
use crate::story::{self, REPLAYED};

#[test]
fn each_component_is_killed_in_turn_and_the_totals_are_those_of_one_process_in_memory() {
    let wanted = story::in_memory(REPLAYED);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let launch =
        Launch::default().with(&["--data", data, "--speed", "600", "--readings", &REPLAYED.to_string()]);
    story::killed_in_turn(folder.path(), &launch, &wanted);
}
