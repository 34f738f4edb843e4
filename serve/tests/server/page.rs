//! The page at `/ui`: every asset comes from the binary, and what it calls answers.

use serde_json::json;

use super::support::{Server, base64, jpegs};

#[test]
fn every_asset_comes_from_the_binary_and_names_no_other_host() {
    let server = Server::ready(&[]);
    for (path, media_type, content) in moco_serve::page::ASSETS {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(media_type)), "{path}");
        assert_eq!(answer.text(), content, "{path}");
        assert!(answer.header("content-security-policy").unwrap().contains("default-src 'none'"));
    }
    let page = server.get("/ui").text();
    let references = page.match_indices("=\"/").map(|(at, _)| page[at + 2..].split('"').next().unwrap());
    let mut seen = 0;
    for reference in references {
        assert_eq!(server.get(reference).status, 200, "{reference}");
        seen += 1;
    }
    assert!(seen >= 2, "the page refers to its script and its style");
    for (path, _, content) in moco_serve::page::ASSETS {
        let hosts: Vec<&str> =
            content.match_indices("://").map(|(at, _)| &content[at.saturating_sub(5)..(at + 24).min(content.len())]).collect();
        assert!(hosts.iter().all(|host| host.contains("www.w3.org")), "{path} names {hosts:?}");
    }
    assert_eq!(server.get("/ui/").status, 200);
}

#[test]
fn what_the_page_calls_answers_as_it_reads_it() {
    let server = Server::ready(&[]);
    let picture = base64(&jpegs()[0]);
    server.collection("cells");
    let thumbnail = format!("data:image/jpeg;base64,{picture}");
    let points: Vec<_> = jpegs()
        .iter()
        .enumerate()
        .map(|(id, jpeg)| json!({"id": id, "vector": {"image": base64(jpeg)}, "payload": {"thumbnail": thumbnail, "class": "WBC"}}))
        .collect();
    server.put("/collections/cells/points?wait=true", &json!({"points": points})).result();

    let model = server.get("/v1/models").json()["data"][0]["id"].clone();
    assert_eq!(server.get("/collections").result()["collections"][0]["name"], "cells");
    assert_eq!(server.get("/collections/cells").result()["points_count"], 8);
    let by_image = json!({"query": {"nearest": {"image": thumbnail, "model": model}}, "limit": 20, "with_payload": true});
    let found = server.post("/collections/cells/points/query", &by_image).result();
    assert_eq!(found["points"].as_array().unwrap().len(), 8);
    assert_eq!((&found["points"][0]["id"], &found["points"][0]["payload"]["thumbnail"]), (&json!(0), &json!(thumbnail)));
    let by_id = json!({"query": found["points"][1]["id"], "limit": 20, "with_payload": true});
    assert_eq!(server.post("/collections/cells/points/query", &by_id).result()["points"].as_array().unwrap().len(), 7);
    let broken = json!({"query": {"nearest": {"image": "data:image/png;base64,dGhpcyBpcyBubyBwaWN0dXJl", "model": model}}, "limit": 20, "with_payload": true});
    let refused = server.post("/collections/cells/points/query", &broken);
    assert!(refused.json()["status"]["error"].as_str().unwrap().contains("not an image"), "the page shows this sentence");
}
