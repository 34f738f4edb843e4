//! Snapshots taken while two clients write and segments are built: each is restored into a new folder, verified, and holds
//! of each client a prefix of what it did, with everything that was acknowledged before the snapshot was asked for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moco_index::StoreOptions;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::Model;
use crate::script::{self, MAIN, Mix, Operation};
use crate::{amount, open, read_back, scratch, seed};

const CLIENTS: usize = 2;

/// What a client has begun, and what it was told is done: operations before this number.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    done: AtomicU64,
}

#[test]
fn snapshots_under_load_hold_a_prefix_of_what_each_client_was_told() {
    let (start, seed, snapshots) = (Instant::now(), seed(31), amount(50, 500));
    let folder = scratch();
    let store = script::open(&folder.path().join("data"), &StoreOptions::default().checkpoint_bytes(100_000)).unwrap();
    let setup = Operation::CreateCollection { name: MAIN.to_owned() };
    setup.perform(&store).unwrap();
    let progress: [Progress; CLIENTS] = Default::default();
    let stop = AtomicBool::new(false);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // By snapshot: of each client what was done before, and what was begun after.
    let bounds: Vec<[(u64, u64); CLIENTS]> = std::thread::scope(|scope| {
        for (client, progress) in (0..).zip(&progress) {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    progress.begun.store(number + 1, Ordering::SeqCst);
                    Operation::draw(seed, client, number, Mix::POINTS).perform(store).unwrap();
                    progress.done.store(number + 1, Ordering::SeqCst);
                }
            });
        }
        let collection = store.collection(MAIN).unwrap();
        let take = |number: usize| {
            std::thread::sleep(Duration::from_millis(random.random_range(0..30)));
            let done = progress.each_ref().map(|progress| progress.done.load(Ordering::SeqCst));
            let taken = collection.backup(folder.path().join(format!("snapshot-{number}")));
            let begun = progress.each_ref().map(|progress| progress.begun.load(Ordering::SeqCst));
            taken.map(|_| std::array::from_fn(|client| (done[client], begun[client])))
        };
        let bounds = (0..snapshots).map(take).collect::<Result<_, _>>();
        stop.store(true, Ordering::Relaxed);
        bounds.unwrap()
    });
    let mut blank = Model::default();
    blank.apply(&setup);
    let mut models = vec![blank; CLIENTS];
    let mut applied = [0; CLIENTS];
    let (mut ahead, mut points) = (0, 0);
    for (number, bounds) in bounds.iter().enumerate() {
        let restored = scratch();
        {
            let store = open(restored.path()).unwrap();
            let collection = store.restore(folder.path().join(format!("snapshot-{number}")), MAIN).unwrap();
            collection.verify().unwrap();
        }
        let found = read_back(restored.path()).unwrap();
        points += found.0[MAIN].points.len();
        for (client, (done, begun)) in bounds.iter().enumerate() {
            let operation = |number| Operation::draw(seed, client as u64, number, Mix::POINTS);
            while applied[client] < *done {
                models[client].apply(&operation(applied[client]));
                applied[client] += 1;
            }
            let (part, mut expected) = (found.of_client(client as u64), models[client].clone());
            let differences = part.differences(&expected);
            let is_prefix = part == expected
                || (*done..*begun).any(|number| {
                    expected.apply(&operation(number));
                    ahead += 1;
                    part == expected
                });
            assert!(
                is_prefix,
                "seed {seed}, snapshot {number}, client {client}: no prefix of {done} to {begun} operations; {differences:?}"
            );
        }
    }
    println!(
        "{snapshots} snapshots from seed {seed} while {applied:?} operations were done, restored and verified: each a prefix, {ahead} times of \
         more than was acknowledged; {:.0} points in the mean; {:.1} s",
        points as f64 / snapshots as f64,
        start.elapsed().as_secs_f64()
    );
    assert!(applied.iter().all(|done| *done > 0), "nobody wrote anything");
}
