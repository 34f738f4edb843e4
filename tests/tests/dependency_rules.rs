//! Which package may reach which, asked of Cargo itself (`cargo tree`).
//!
//! Train, export and serve meet in files only; whoever serves, exports or indexes needs no libtorch, whoever trains needs
//! no ONNX Runtime. Each rule has a control: a dependency that breaks it is written into a copy of the manifests, and the
//! same question must find it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use moco_tests::clients::workspace;

type Packages = BTreeMap<String, BTreeSet<String>>;

/// The direct dependencies of every package.
struct Dependencies {
    /// Of what is shipped: normal and build dependencies.
    shipped: Packages,
    /// The same with the dependencies of tests, examples and benchmarks.
    all: Packages,
}

const MEMBERS: [&str; 7] = ["moco-encoder", "moco-runtime", "moco-export", "moco-train", "moco-index", "moco-serve", "moco-tests"];

const LIBTORCH: [&str; 2] = ["tch", "torch-sys"];
const ONNX_RUNTIME: [&str; 2] = ["ort", "ort-sys"];
const HTTP: [&str; 3] = ["actix-web", "actix-http", "actix-multipart"];

impl Dependencies {
    fn of(workspace: &Path) -> Self {
        Self { shipped: tree(workspace, "normal,build"), all: tree(workspace, "normal,build,dev") }
    }

    /// A sentence for every rule that is broken.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut forbid = |packages: &Packages, member: &str, targets: &[&str]| {
            for target in targets {
                if let Some(path) = path(packages, member, target) {
                    found.push(format!("{member} must not reach {target}: {}", path.join(" -> ")));
                }
            }
        };
        // Their tests too: `cargo test` must work where there is no libtorch.
        for member in ["moco-encoder", "moco-runtime", "moco-export", "moco-index", "moco-serve"] {
            forbid(&self.all, member, &LIBTORCH);
        }
        for member in ["moco-encoder", "moco-train", "moco-index"] {
            forbid(&self.all, member, &ONNX_RUNTIME);
        }
        // A test may make its model with another package; a program may not.
        for (member, others) in [
            ("moco-train", ["moco-export", "moco-serve"]),
            ("moco-export", ["moco-train", "moco-serve"]),
            ("moco-serve", ["moco-train", "moco-export"]),
        ] {
            forbid(&self.shipped, member, &others);
        }
        // The index knows neither images nor an asynchronous runtime; the encoder and ONNX Runtime's room know nobody.
        forbid(&self.shipped, "moco-index", &["moco-encoder", "moco-runtime", "image", "tokio"]);
        forbid(&self.shipped, "moco-encoder", &["moco-runtime", "moco-index", "tokio"]);
        forbid(&self.shipped, "moco-runtime", &["moco-encoder", "moco-index", "tokio"]);
        forbid(&self.shipped, "moco-train", &["moco-runtime", "moco-index"]);
        forbid(&self.shipped, "moco-export", &["moco-index"]);
        for member in MEMBERS.into_iter().filter(|member| !["moco-serve", "moco-tests"].contains(member)) {
            forbid(&self.shipped, member, &HTTP);
        }
        // One door to ONNX Runtime, one writer of ONNX.
        let mut only = |door: &str, targets: &[&str]| {
            for (member, target) in MEMBERS.into_iter().flat_map(|member| targets.iter().map(move |target| (member, *target))) {
                if member != door && self.all[member].contains(target) {
                    found.push(format!("{member} names {target}, which is {door}'s alone"));
                }
            }
        };
        only("moco-runtime", &ONNX_RUNTIME);
        only("moco-export", &["onnx-protobuf", "protobuf"]);
        only("moco-index", &["hnsw_rs", "rusqlite"]);
        found
    }
}

/// The dependencies of a workspace, of the given kinds, as `cargo tree` prints them.
fn tree(workspace: &Path, kinds: &str) -> Packages {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--offline", "--quiet", "--prefix", "depth", "--format", " {p}", "--edges", kinds])
        .current_dir(workspace)
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8(output.stdout).unwrap())
}

/// Lines are `depth name vVersion …`; what stands one deeper below a line is its dependency. A package that was shown
/// before has `(*)` and no lines below.
fn parse(text: &str) -> Packages {
    let mut packages = Packages::new();
    let mut above: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let depth: usize = words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("cargo tree printed `{line}`"));
        let name = words.next().expect("a line names its package").to_owned();
        above.truncate(depth);
        if let Some(parent) = above.last() {
            packages.get_mut(parent).expect("a parent was printed before").insert(name.clone());
        }
        packages.entry(name.clone()).or_default();
        above.push(name);
    }
    packages
}

/// A way from one package to another, or `None`.
fn path(packages: &Packages, from: &str, to: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::from([from.to_owned()]);
    while let Some(way) = ways.pop() {
        let last = way.last().expect("a way has a start");
        for next in packages.get(last).unwrap_or_else(|| panic!("cargo tree does not know {last}")) {
            let longer: Vec<String> = way.iter().chain([next]).cloned().collect();
            if next == to {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                ways.push(longer);
            }
        }
    }
    None
}

#[test]
fn no_package_reaches_what_it_must_not() {
    let dependencies = Dependencies::of(&workspace());
    // The question is the right one: what must be reached, is.
    for (member, target) in [
        ("moco-train", "torch-sys"),
        ("moco-runtime", "ort-sys"),
        ("moco-export", "ort"),
        ("moco-export", "protobuf"),
        ("moco-serve", "ort"),
        ("moco-serve", "actix-http"),
        ("moco-serve", "moco-index"),
        ("moco-index", "rusqlite"),
        ("moco-encoder", "image"),
        ("moco-tests", "moco-train"),
    ] {
        assert!(path(&dependencies.shipped, member, target).is_some(), "{member} does not reach {target}");
    }
    assert_eq!(dependencies.violations(), [""; 0]);
}

#[test]
fn a_planted_dependency_is_found() {
    // (a package's folder, a section of its manifest, a dependency written there, the sentence it must cause)
    for (folder, section, dependency, sentence) in [
        ("serve", "dependencies", "moco-train", "moco-serve must not reach torch-sys: moco-serve -> moco-train -> tch -> torch-sys"),
        ("serve", "dependencies", "moco-export", "moco-serve must not reach moco-export: moco-serve -> moco-export"),
        ("train", "dependencies", "moco-export", "moco-train must not reach ort: moco-train -> moco-export -> moco-runtime -> ort"),
        ("export", "dev-dependencies", "tch", "moco-export must not reach tch: moco-export -> tch"),
        ("index", "dev-dependencies", "tch", "moco-index must not reach tch: moco-index -> tch"),
        ("index", "dependencies", "moco-encoder", "moco-index must not reach image: moco-index -> moco-encoder -> image"),
        ("export/encoder", "build-dependencies", "tch", "moco-encoder must not reach tch: moco-encoder -> tch"),
        ("export/runtime", "dependencies", "tch", "moco-runtime must not reach tch: moco-runtime -> tch"),
        ("export", "dependencies", "actix-web", "moco-export must not reach actix-web: moco-export -> actix-web"),
        ("serve", "dependencies", "ort", "moco-serve names ort, which is moco-runtime's alone"),
        ("serve", "dependencies", "protobuf", "moco-serve names protobuf, which is moco-export's alone"),
    ] {
        let copy = copy_of_the_manifests();
        plant(&copy.path().join(folder).join("Cargo.toml"), section, dependency);
        let violations = Dependencies::of(copy.path()).violations();
        assert!(violations.iter().any(|found| found == sentence), "{dependency} in {folder} [{section}]: {violations:#?}");
    }
}

/// What `cargo tree` reads, with empty sources.
fn copy_of_the_manifests() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["Cargo.toml", "Cargo.lock"] {
        fs::copy(workspace().join(file), copy.path().join(file)).unwrap();
    }
    for folder in ["export/encoder", "export/runtime", "export", "train", "index", "serve", "tests"] {
        let (from, to) = (workspace().join(folder), copy.path().join(folder));
        fs::create_dir_all(to.join("src")).unwrap();
        let manifest: toml::Table = fs::read_to_string(from.join("Cargo.toml")).unwrap().parse().unwrap();
        fs::write(to.join("src/lib.rs"), "").unwrap();
        fs::copy(from.join("Cargo.toml"), to.join("Cargo.toml")).unwrap();
        for (kind, room) in [("bin", "src/bin"), ("example", "examples"), ("test", "tests"), ("bench", "benches")] {
            for target in manifest.get(kind).and_then(toml::Value::as_array).into_iter().flatten() {
                let named = |key| target.get(key).and_then(toml::Value::as_str);
                // Without a path Cargo looks in the room of its kind.
                let in_its_room = || format!("{room}/{}.rs", named("name").expect("a target has a name"));
                let source = to.join(named("path").map_or_else(in_its_room, str::to_owned));
                fs::create_dir_all(source.parent().expect("a source lies in a folder")).unwrap();
                fs::write(source, "fn main() {}\n").unwrap();
            }
        }
    }
    copy
}

fn plant(manifest: &Path, section: &str, dependency: &str) {
    let mut table: toml::Table = fs::read_to_string(manifest).unwrap().parse().unwrap();
    let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
    let workspace = toml::Table::from_iter([("workspace".to_owned(), true.into())]);
    section.as_table_mut().expect("a section is a table").insert(dependency.to_owned(), workspace.into());
    fs::write(manifest, toml::to_string(&table).unwrap()).unwrap();
}

#[test]
fn cargo_test_alone_needs_no_libtorch() {
    let manifest: toml::Table = fs::read_to_string(workspace().join("Cargo.toml")).unwrap().parse().unwrap();
    let members =
        |key| -> BTreeSet<&str> { manifest["workspace"][key].as_array().unwrap().iter().map(|member| member.as_str().unwrap()).collect() };
    let (all, default) = (members("members"), members("default-members"));
    assert_eq!(all.difference(&default).copied().collect::<Vec<_>>(), ["tests", "train"]);
    assert_eq!(all.len(), MEMBERS.len());
}
