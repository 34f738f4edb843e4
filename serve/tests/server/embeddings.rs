//! `/v1`: what OpenAI's clients call, with images.

use serde_json::{Value, json};

use super::support::{DIM, Server, base64, cosine, floats, from_base64, jpegs, png};

#[test]
fn one_picture_gives_one_vector_whichever_way_it_is_sent() {
    let server = Server::ready(&[]);
    let picture = &jpegs()[0];
    let expected = server.embed(picture);
    assert_eq!(expected.len(), DIM);
    assert!((cosine(&expected, &expected) - 1.0).abs() < 1e-6);
    let length: f32 = expected.iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5, "squared length {length}");

    let text = base64(picture);
    let uri = format!("data:image/jpeg;base64,{text}");
    for input in [json!(text), json!(uri), json!([uri]), json!({"image": text}), json!([{"image": uri}])] {
        let answer = server.post("/v1/embeddings", &json!({"model": "tiny", "input": input, "encoding_format": "float"}));
        let json = answer.json();
        assert_eq!(floats(&json["data"][0]["embedding"]), expected, "{}", answer.text());
        assert_eq!((&json["object"], &json["model"], &json["data"][0]["index"]), (&json!("list"), &json!("tiny"), &json!(0)));
        assert_eq!(json["usage"], json!({"prompt_tokens": 0, "total_tokens": 0}));
    }

    let form = multipart(&[("image", Some("a.jpg"), picture), ("model", None, b"tiny")]);
    let answer = server.post_bytes("/v1/embeddings", "multipart/form-data; boundary=frontier", &form);
    assert_eq!(floats(&answer.json()["data"][0]["embedding"]), expected, "{}", answer.text());
}

fn multipart(fields: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, content) in fields {
        let file = file.map(|file| format!("; filename=\"{file}\"\r\nContent-Type: image/jpeg")).unwrap_or_default();
        body.extend_from_slice(format!("--frontier\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--frontier--\r\n");
    body
}

#[test]
fn many_pictures_are_answered_in_their_order_and_both_encodings_agree() {
    let server = Server::ready(&["--batch-size", "3"]);
    let pictures = jpegs();
    let alone: Vec<Vec<f32>> = pictures.iter().map(|picture| server.embed(picture)).collect();
    for (index, other) in alone.iter().enumerate().skip(1) {
        assert!(cosine(&alone[0], other) < 0.99999, "pictures 0 and {index} are told apart");
    }
    let input: Vec<String> = pictures.iter().map(|picture| base64(picture)).collect();
    let ask = |encoding: &str| server.post("/v1/embeddings", &json!({"input": input, "encoding_format": encoding})).json()["data"].clone();
    let (as_floats, as_base64) = (ask("float"), ask("base64"));
    for (index, alone) in alone.iter().enumerate() {
        assert_eq!(as_floats[index]["index"], index);
        let embedding = floats(&as_floats[index]["embedding"]);
        assert!(cosine(&embedding, alone) > 0.999_999, "picture {index} keeps its place");
        let decoded = from_base64(as_base64[index]["embedding"].as_str().unwrap());
        assert!(cosine(&decoded, &embedding) > 0.999_999);
    }
    let form: Vec<(&str, Option<&str>, &[u8])> = pictures.iter().map(|picture| ("image[]", Some("x.jpg"), &picture[..])).collect();
    let mut form = form;
    form.push(("encoding_format", None, b"base64"));
    let answer = server.post_bytes("/v1/embeddings", "multipart/form-data; boundary=frontier", &multipart(&form)).json();
    assert_eq!(answer["data"].as_array().unwrap().len(), pictures.len());
    assert!(cosine(&from_base64(answer["data"][7]["embedding"].as_str().unwrap()), &alone[7]) > 0.999_999);
}

#[test]
fn base64_holds_the_bits_that_the_list_holds() {
    let server = Server::ready(&[]);
    let input = base64(&jpegs()[3]);
    let ask = |encoding: &str| {
        server.post("/v1/embeddings", &json!({"input": input, "encoding_format": encoding})).json()["data"][0]["embedding"].clone()
    };
    let bits = |vector: &[f32]| vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&floats(&ask("float"))), bits(&from_base64(ask("base64").as_str().unwrap())));
    let raw = server.post_bytes("/v1/embeddings?encoding_format=base64", "image/jpeg", &jpegs()[3]).json();
    assert_eq!(raw["data"][0]["embedding"], ask("base64"));
}

#[test]
fn a_bad_picture_among_good_ones_is_named_and_others_requests_do_not_feel_it() {
    let server = Server::ready(&["--batch-delay-ms", "50", "--sessions", "1"]);
    let pictures = jpegs();
    let expected = server.embed(&pictures[0]);
    std::thread::scope(|scope| {
        let good: Vec<_> = (0..4).map(|_| scope.spawn(|| server.embed(&pictures[0]))).collect();
        let bad: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let cut = &pictures[2][..pictures[2].len() / 2];
                    server.post("/v1/embeddings", &json!({"input": [base64(&pictures[1]), base64(cut), base64(&pictures[3])]}))
                })
            })
            .collect();
        for good in good {
            assert!(cosine(&good.join().unwrap(), &expected) > 0.999_999);
        }
        for bad in bad {
            let answer = bad.join().unwrap();
            assert_eq!(answer.json()["error"]["param"], "input[1]");
            let (message, code) = answer.openai_error(400);
            assert!(message.starts_with("input[1]: ") && message.contains("cut short"), "{message}");
            assert_eq!(code, "image_truncated");
        }
    });
}

#[test]
fn a_picture_of_one_pixel_works() {
    let server = Server::ready(&[]);
    assert_eq!(server.embed(&png(1, 1)).len(), DIM);
}

#[test]
fn the_model_says_what_it_is_and_how_it_is_served() {
    let server = Server::ready(&["--sessions", "2", "--intra-threads", "1", "--model-name", "cells"]);
    let models = server.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    let model = &models["data"][0];
    assert_eq!((&model["id"], &model["object"], &model["dim"]), (&json!("cells"), &json!("model"), &json!(DIM)));
    assert_eq!(model["fingerprint"].as_str().unwrap().len(), 64);
    assert_eq!(
        (&model["plan"]["sessions"], &model["plan"]["intra_threads"], &model["plan"]["device"]),
        (&json!(2), &json!(1), &json!("cpu"))
    );
    assert_eq!(model["manifest"]["preprocessing"]["crop"], 32);
    let picture = base64(&jpegs()[0]);
    for name in [&json!("cells"), &model["fingerprint"], &json!("")] {
        assert_eq!(server.post("/v1/embeddings", &json!({"model": name, "input": picture})).status, 200);
    }
    let (message, code) = server.post("/v1/embeddings", &json!({"model": "clip", "input": picture})).openai_error(404);
    assert!(message.contains("`clip`") && message.contains("`cells`"), "{message}");
    assert_eq!(code, "model_not_found");
}

#[test]
fn what_cannot_be_embedded_is_refused_in_openais_shape() {
    let server = Server::ready(&[]);
    let picture = base64(&jpegs()[0]);
    let cases: Vec<(Value, u16, &str, &str)> = vec![
        (json!({"input": "a photo of a cat"}), 400, "image_not_base64", "base64"),
        (json!({"input": "/etc/passwd"}), 400, "image_not_base64", "base64"),
        (json!({"input": ["http://127.0.0.1/a.jpg"]}), 400, "image_is_address", "not opened"),
        (json!({"input": "file:///etc/hostname"}), 400, "image_is_address", "not opened"),
        (json!({"input": base64(b"these bytes are no picture")}), 400, "image_format_unknown", "known format"),
        (json!({"input": ""}), 400, "image_empty", "0 bytes"),
        (json!({"input": base64(&png(60_000, 60_000))}), 413, "image_too_large", "60000×60000"),
        (json!({"input": []}), 400, "input_empty", "empty"),
        (json!({"input": [1, 2, 3]}), 400, "input_not_an_image", "input[0] is a number"),
        (json!({"input": {"text": "x"}}), 400, "input_not_an_image", "`image`"),
        (json!({"input": {"image": picture, "size": 3}}), 400, "input_not_an_image", "`size`"),
        (json!({"model": "tiny"}), 400, "input_missing", "`input` is missing"),
        (json!({"input": picture, "encoding_format": "hex"}), 400, "bad_option", "hex"),
        (json!({"input": picture, "colour": "red"}), 400, "bad_option", "colour"),
        (json!({"input": picture, "dimensions": 8}), 400, "dimensions_not_supported", "8"),
        (json!({"input": picture, "modality": "text"}), 400, "modality_not_supported", "images only"),
    ];
    for (request, status, expected, part) in cases {
        let (message, code) = server.post("/v1/embeddings", &request).openai_error(status);
        assert_eq!(code, expected, "{request}: {message}");
        assert!(message.contains(part), "{request}: {message}");
    }
    for (body, kind) in
        [(&b"{\"input\": "[..], "application/json"), (b"\xff\xd8\xff", "application/x-www-form-urlencoded"), (b"[]", "application/json")]
    {
        assert_eq!(server.post_bytes("/v1/embeddings", kind, body).openai_error(400).1, "bad_json");
    }
    assert_eq!(server.post_bytes("/v1/embeddings", "multipart/form-data; boundary=x", b"--x--\r\n").openai_error(400).1, "bad_form");
    assert_eq!(server.post_bytes("/v1/embeddings?size=3", "image/jpeg", &jpegs()[0]).openai_error(400).1, "bad_option");
    assert_eq!(server.get("/v1/embeddings").openai_error(404).1, "no_route");
    assert_eq!(server.post("/v1/embeddings", &json!({"input": picture, "dimensions": DIM, "user": "u", "modality": "image"})).status, 200);
    server.stop();
}
