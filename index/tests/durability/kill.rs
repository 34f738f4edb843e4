//! `kill -9` in the middle of whatever the clients do, again and again over the same folder.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::Model;
use crate::script::{MAIN, Mix, Operation, config};
use crate::{amount, child, open, path, read_back, seed};

const CLIENTS: usize = 3;

#[derive(Default)]
struct Tally {
    acknowledged: usize,
    unanswered_but_stored: usize,
}

/// Kills a child `kills` times, each over what the one before left; the first difference ends it.
fn kill_often(seed: u64, kills: usize, answers: &str) -> Result<Tally, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut main = Model::default();
    main.apply(&Operation::CreateCollection { name: MAIN.to_owned() });
    drop(open(folder.path()).unwrap().create_collection(MAIN, config()).unwrap());
    let mut expected = vec![main; CLIENTS];
    let mut next = [0u64; CLIENTS];
    let mut tally = Tally::default();
    for kill in 0..kills {
        // The log is moved into the file after each few writes, or now and then, or hardly ever.
        let checkpoint_bytes = ["2000", "100000", "10000000"][kill % 3];
        let firsts = next.map(|first| first.to_string());
        let arguments = ["script", path(&folder), &seed.to_string(), checkpoint_bytes, answers, "1000", "40000"];
        let mut process = child(&[&arguments[..], &firsts.each_ref().map(String::as_str)].concat()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = String::new();
        // One in four is killed while it starts, the others while they work.
        if random.random_range(0..4) > 0 {
            output.read_line(&mut lines).unwrap();
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..120_000)));
        process.kill().unwrap();
        output.read_to_string(&mut lines).unwrap();
        process.wait().unwrap();
        for line in lines.lines().filter(|line| *line != "ack main") {
            let [client, number] = line.strip_prefix("ack ").unwrap().split(' ').map(|n| n.parse::<u64>().unwrap()).collect::<Vec<_>>()[..]
            else {
                panic!("{line}")
            };
            let client = client as usize;
            assert_eq!(number, next[client], "acknowledgements come in order");
            expected[client].apply(&Operation::draw(seed, client as u64, number, Mix::SMALL));
            next[client] += 1;
            tally.acknowledged += 1;
        }
        let found = read_back(folder.path()).map_err(|error| format!("seed {seed}, kill {kill}: {error}"))?;
        for client in 0..CLIENTS {
            // The operation under way may have reached the disk or not, but not by half.
            let part = found.of_client(client as u64);
            if part != expected[client] {
                let under_way = Operation::draw(seed, client as u64, next[client], Mix::SMALL);
                let mut with_next = expected[client].clone();
                with_next.apply(&under_way);
                let differences = part.differences(&with_next);
                if !differences.is_empty() {
                    let place = format!("seed {seed}, kill {kill}, client {client}, operation {}: {under_way}", next[client]);
                    return Err(format!("{place}: {}", differences.join("; ")));
                }
                expected[client] = with_next;
                tally.unanswered_but_stored += 1;
            }
            // Whether it was seen or not: each number is used once.
            next[client] += 1;
        }
    }
    Ok(tally)
}

#[test]
fn nothing_acknowledged_is_lost_and_no_delete_undone_by_kills() {
    let (start, seed, kills) = (Instant::now(), seed(20), amount(100, 1000));
    let Tally { acknowledged, unanswered_but_stored } = kill_often(seed, kills, "with-sync").unwrap_or_else(|wrong| panic!("{wrong}"));
    println!(
        "{kills} kills from seed {seed}, {acknowledged} acknowledged operations, 0 lost; {unanswered_but_stored} were stored and not yet \
         acknowledged; {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert!(acknowledged > kills * 3, "only {acknowledged} operations in {kills} lives: the kills came too early to show anything");
}

#[test]
fn an_acknowledgement_before_the_commit_is_caught_by_kills() {
    let seed = seed(21);
    let wrong = kill_often(seed, 60, "too-early").err();
    println!("answers before commits, from seed {seed}: {}", wrong.as_deref().unwrap_or("not noticed"));
    assert!(wrong.is_some());
}
