//! What is measured with both kinds of durability side by side.

use world::group::Group;

/// One replica and two APIs, in order: the first confirms writes (`sync`), the second does not (`async`).
pub(crate) fn both_durabilities() -> Group {
    let mut group = Group::of(1).apis(2).start();
    let ini = std::fs::read_to_string(group.apis[1].file()).expect("the file of an API");
    group.apis[1].write_file(&ini.replace("[api]\n", "[api]\ndurability = async\n"));
    group.apis[1].restart();
    group.ready();
    group.settled();
    group
}
