//! Each clause by example; what is refused, and where; that reading, writing and reading again is the identity.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};
use uuid::Uuid;

use super::random::{self, Opinion};
use super::{
    Condition, Datetime, DatetimeRange, Filter, GeoPoint, MAX_CONDITIONS, MAX_DEPTH, MAX_LISTED, Match, Number, PointView, Predicate,
    Range, Scalar, Slice, ValuesCount,
};
use crate::id::PointId;
use crate::payload::KeyPath;
use crate::point::Payload;

struct Sample {
    id: PointId,
    payload: Payload,
    vectors: BTreeSet<&'static str>,
}

impl PointView for Sample {
    fn id(&self) -> PointId {
        self.id
    }

    fn payload(&self) -> &Payload {
        &self.payload
    }

    fn has_vector(&self, name: &str) -> bool {
        self.vectors.contains(name)
    }
}

fn sample(payload: Value) -> Sample {
    let Value::Object(payload) = payload else { panic!("{payload} is no payload") };
    Sample { id: PointId::Num(7), payload, vectors: BTreeSet::from(["", "image"]) }
}

fn passes(payload: &Value, filter: &Value) -> bool {
    let parsed = Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
    parsed.matches(&sample(payload.clone()))
}

/// Does the condition hold, as a `must`, and is `must_not` its opposite?
fn is(payload: &Value, condition: impl Into<Value>) -> bool {
    let condition = condition.into();
    let must = passes(payload, &json!({"must": condition}));
    assert_eq!(passes(payload, &json!({"must_not": [condition]})), !must, "{condition} and its opposite");
    must
}

fn refusal(filter: &Value) -> String {
    match Filter::parse(filter) {
        Ok(parsed) => panic!("{filter} was read as {parsed:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn clauses_combine_their_conditions() {
    let payload = json!({"a": 1, "b": 2, "c": 3});
    let of = |key: &str, value: i64| json!({"key": key, "match": {"value": value}});
    let (yes, no) = (of("a", 1), of("a", 2));
    for (filter, expected) in [
        (json!({}), true),
        (json!({"must": null, "should": []}), true),
        (json!({"must": []}), true),
        (json!({"must": yes}), true),
        (json!({"must": [yes, of("b", 2)]}), true),
        (json!({"must": [yes, no]}), false),
        (json!({"should": [no, yes]}), true),
        (json!({"should": [no]}), false),
        (json!({"should": [], "must": [yes]}), true),
        (json!({"should": [yes], "must": [no]}), false),
        (json!({"must_not": [no, no]}), true),
        (json!({"must_not": [no, yes]}), false),
        (json!({"min_should": {"conditions": [yes, no, of("b", 2)], "min_count": 2}}), true),
        (json!({"min_should": {"conditions": [yes, no, no], "min_count": 2}}), false),
        (json!({"min_should": {"conditions": [yes], "min_count": 2}}), false),
        (json!({"min_should": {"conditions": [], "min_count": 0}}), true),
        (json!({"must": {"should": [no, {"must_not": no}]}}), true),
        (json!({"must": {}}), true),
        (json!({"must_not": {}}), false),
    ] {
        assert_eq!(passes(&payload, &filter), expected, "{filter}");
    }
}

#[test]
fn match_value_tells_bools_integers_and_floats_apart() {
    let payload = json!({"b": true, "i": 1, "f": 1.0, "s": "1", "n": null, "l": ["x", 2, [3]], "big": u64::MAX, "small": i64::MIN});
    let matches = |key: &str, value: Value| is(&payload, json!({"key": key, "match": {"value": value}}));
    assert!(matches("b", json!(true)) && !matches("b", json!(1)) && !matches("b", json!(false)));
    assert!(matches("i", json!(1)) && !matches("i", json!(true)) && !matches("i", json!("1")));
    assert!(!matches("f", json!(1)) && matches("s", json!("1")) && !matches("s", json!(1)));
    assert!(!matches("n", json!(0)) && !matches("missing", json!(0)));
    assert!(matches("l", json!("x")) && matches("l", json!(2)) && !matches("l", json!(3)));
    assert!(matches("l[]", json!(3)) && matches("l[2]", json!(3)) && !matches("l[0]", json!(3)));
    assert!(matches("big", json!(u64::MAX)) && !matches("big", json!(u64::MAX - 1)));
    assert!(matches("small", json!(i64::MIN)) && !matches("small", json!(i64::MIN + 1)));
}

#[test]
fn match_any_and_except_are_not_opposites() {
    let payload = json!({"s": "red", "l": ["red", "blue"], "n": null, "ln": [null], "i": 1, "f": 1.0, "b": true, "o": {}, "e": []});
    let any = |key: &str, list: Value| is(&payload, json!({"key": key, "match": {"any": list}}));
    let except = |key: &str, list: Value| is(&payload, json!({"key": key, "match": {"except": list}}));
    assert!(any("s", json!(["red", "green"])) && !any("s", json!(["green"])) && !any("s", json!([])));
    assert!(any("l", json!(["blue"])) && any("i", json!([2, 1])) && !any("f", json!([1])) && any("b", json!([true])));
    assert!(!any("i", json!(["1"])) && !any("missing", json!(["x"])) && !any("n", json!(["x"])));
    assert!(!except("s", json!(["red"])) && except("s", json!(["green"])) && except("s", json!([])));
    assert!(except("l", json!(["red"])) && !except("l", json!(["red", "blue"])));
    assert!(except("i", json!(["red"])) && except("f", json!([1])) && except("b", json!([1])) && except("o", json!([1])));
    for never in ["missing", "n", "ln", "e"] {
        assert!(!except(never, json!(["x"])), "{never}");
    }
}

#[test]
fn text_without_an_index_is_a_case_sensitive_substring() {
    let payload = json!({"t": "The quick brown fox", "l": ["red car", "blue house"], "i": 12});
    let matches = |key: &str, kind: &str, text: &str| is(&payload, json!({"key": key, "match": {kind: text}}));
    assert!(matches("t", "text", "ick bro") && !matches("t", "text", "Quick") && !matches("t", "text", "fox quick"));
    assert!(matches("t", "text", "") && !matches("i", "text", "1") && !matches("missing", "text", ""));
    assert!(matches("l", "text", "house") && !matches("l", "text", "red house"));
    assert!(matches("t", "text_any", "cat ick") && !matches("t", "text_any", "cat dog") && !matches("t", "text_any", ""));
    assert!(matches("t", "phrase", "quick brown") && !matches("t", "phrase", "brown quick"));
    assert!(
        matches("t", "prefix", "The q") && !matches("t", "prefix", "quick") && matches("t", "prefix", "") && !matches("i", "prefix", "")
    );
    assert!(matches("l", "substring", "ouse") && !matches("l", "substring", "House"));
}

#[test]
fn a_range_compares_numbers_exactly_and_nothing_else() {
    let large = (1i64 << 53) + 1;
    let payload = json!({"i": 5, "f": 0.5, "b": true, "s": "5", "l": [1, 9.5], "large": large, "u": u64::MAX});
    let range = |key: &str, range: Value| is(&payload, json!({"key": key, "range": range}));
    assert!(range("i", json!({"gte": 5, "lte": 5.0})) && !range("i", json!({"gt": 5})) && !range("i", json!({"lt": 5})));
    assert!(range("i", json!({"gt": 4.5, "lt": 5.5})) && range("i", json!({})) && range("i", json!({"lt": null, "gt": 1})));
    assert!(range("f", json!({"gt": 0, "lt": 1})) && !range("b", json!({"gte": 0})) && !range("s", json!({"gte": 0})));
    assert!(range("l", json!({"gt": 9})) && range("l", json!({"lt": 2})) && !range("l", json!({"gt": 2, "lt": 9})));
    assert!(
        !range("large", json!({"lte": large - 1}))
            && range("large", json!({"lt": large + 1}))
            && range("large", json!({"gt": (large - 1) as f64}))
    );
    assert!(
        range("u", json!({"gte": u64::MAX})) && range("u", json!({"lt": 18446744073709551616.0})) && !range("u", json!({"lt": u64::MAX}))
    );
    assert!(!range("missing", json!({})));
}

#[test]
fn a_range_of_dates_compares_instants() {
    let payload = json!({"d": "2020-02-29T14:00:00+02:00", "day": "2020-03-01", "l": ["no date", "2021-01-01 10:00"], "i": 1_582_977_600});
    let range = |key: &str, range: Value| is(&payload, json!({"key": key, "range": range}));
    assert!(range("d", json!({"gte": "2020-02-29T12:00:00Z", "lte": "2020-02-29 12:00"})));
    assert!(!range("d", json!({"gt": "2020-02-29T12:00:00"})) && !range("d", json!({"lt": "2020-02-29T12:00:00.000"})));
    assert!(range("day", json!({"gt": "2020-02-29T23:59:59.999999", "lt": "2020-03-01T00:00:00.1"})));
    assert!(range("l", json!({"gt": "2021-01-01"})) && !range("l", json!({"gt": "2021-01-02"})));
    assert!(!range("i", json!({"gt": "1970-01-01"})) && !range("missing", json!({"gt": "1970-01-01"})));
    assert!(!range("d", json!({"gt": 0})));
}

#[test]
fn geo_conditions_take_objects_of_lat_and_lon() {
    let payload = json!({
        "berlin": {"lat": 52.52, "lon": 13.405, "name": "Berlin"}, "l": [{"lat": 0, "lon": 179}, {"lat": 10, "lon": 10}],
        "text": {"lat": "52.52", "lon": 13.4}, "half": {"lat": 52.52}, "pair": [13.405, 52.52],
    });
    let geo = |key: &str, kind: &str, region: Value| is(&payload, json!({"key": key, kind: region}));
    let near = |lat: f64, lon: f64, radius: f64| json!({"center": {"lat": lat, "lon": lon}, "radius": radius});
    let bounds = |top: f64, left: f64, bottom: f64, right: f64| json!({"top_left": {"lat": top, "lon": left}, "bottom_right": {"lat": bottom, "lon": right}});
    let ring =
        |points: &[(f64, f64)]| json!({"points": points.iter().map(|(lat, lon)| json!({"lat": lat, "lon": lon})).collect::<Vec<_>>()});
    assert!(geo("berlin", "geo_radius", near(52.5, 13.4, 3_000.0)) && !geo("berlin", "geo_radius", near(52.5, 13.4, 2_000.0)));
    assert!(!geo("berlin", "geo_radius", near(52.52, 13.405, 0.0)));
    assert!(geo("l", "geo_radius", near(0.0, -179.0, 300_000.0)));
    assert!(
        geo("berlin", "geo_bounding_box", bounds(53.0, 13.0, 52.0, 14.0))
            && !geo("berlin", "geo_bounding_box", bounds(52.52, 13.0, 52.0, 14.0))
    );
    assert!(
        geo("l", "geo_bounding_box", bounds(1.0, 170.0, -1.0, -170.0)) && !geo("l", "geo_bounding_box", bounds(1.0, -170.0, -1.0, 170.0))
    );
    let square = ring(&[(0.0, 0.0), (0.0, 20.0), (20.0, 20.0), (20.0, 0.0), (0.0, 0.0)]);
    let hole = ring(&[(5.0, 5.0), (5.0, 15.0), (15.0, 15.0), (15.0, 5.0), (5.0, 5.0)]);
    assert!(geo("l", "geo_polygon", json!({"exterior": square})));
    assert!(
        !geo("l", "geo_polygon", json!({"exterior": square, "interiors": [hole]}))
            && !geo("berlin", "geo_polygon", json!({"exterior": square}))
    );
    for none in ["text", "half", "pair", "missing"] {
        assert!(!geo(none, "geo_radius", near(52.5, 13.4, 1e8)), "{none}");
    }
}

#[test]
fn emptiness_null_and_counts_are_three_things() {
    let payload =
        json!({"v": 0, "n": null, "e": [], "ln": [null], "l": [1, 2, 3], "o": {}, "s": "", "d": [{"x": null}, {"x": []}, {"y": 1}]});
    let empty = |key: &str| is(&payload, json!({"is_empty": {"key": key}}));
    let null = |key: &str| is(&payload, json!({"is_null": {"key": key}}));
    let count = |key: &str, bounds: Value| is(&payload, json!({"key": key, "values_count": bounds}));
    assert_eq!(["missing", "n", "e", "d[].x", "d[].z"].map(empty), [true; 5]);
    assert_eq!(["v", "ln", "l", "o", "s", "d", "d[].y"].map(empty), [false; 7]);
    assert_eq!(["n", "ln[]", "d[].x", "ln[0]"].map(null), [true; 4]);
    assert_eq!(["missing", "ln", "e", "v", "d[].y"].map(null), [false; 5]);
    for key in ["v", "o", "s"] {
        assert!(count(key, json!({"gte": 1, "lte": 1})), "{key}");
    }
    assert!(
        count("n", json!({"lt": 1}))
            && count("e", json!({"lt": 1}))
            && count("l", json!({"gt": 2, "lt": 4}))
            && !count("l", json!({"gt": 3}))
    );
    assert!(!count("missing", json!({"gte": 0})) && count("ln", json!({"gte": 1})) && count("l", json!({})));
    // One value has to meet all bounds: here are two lists of one and three.
    let lists = json!({"a": [{"x": [1]}, {"x": [1, 2, 3]}]});
    assert!(!is(&lists, json!({"key": "a[].x", "values_count": {"gt": 1, "lt": 3}})));
    for (form, long) in [("is_empty", "is_empty"), ("is_null", "is_null")] {
        for key in ["missing", "n", "e", "v"] {
            let asked = is(&payload, json!({long: {"key": key}}));
            assert_eq!(is(&payload, json!({"key": key, form: true})), asked);
            assert_eq!(is(&payload, json!({"key": key, form: false})), !asked);
        }
    }
}

#[test]
fn ids_vectors_and_slices_are_of_the_point() {
    let uuid = "550e8400-e29b-41d4-a716-446655440000";
    let payload = json!({});
    assert!(is(&payload, json!({"has_id": [uuid, 7]})) && !is(&payload, json!({"has_id": [8]})) && !is(&payload, json!({"has_id": []})));
    assert!(
        is(&payload, json!({"has_vector": "image"}))
            && is(&payload, json!({"has_vector": ""}))
            && !is(&payload, json!({"has_vector": "x"}))
    );
    let shares = (0..5).filter(|index| is(&payload, json!({"slice": {"total": 5, "index": index}})));
    assert_eq!(shares.count(), 1);
    let by_uuid = Sample { id: PointId::Uuid(Uuid::try_parse(uuid).unwrap()), ..sample(json!({})) };
    assert!(Filter::parse(&json!({"must": {"has_id": ["550E8400E29B41D4A716446655440000"]}})).unwrap().matches(&by_uuid));
}

#[test]
fn nested_asks_everything_of_one_object() {
    let payload = json!({
        "l": [{"a": 1, "b": 1}, {"a": 2, "b": 2}, 5, [{"a": 9}]], "o": {"a": 1}, "s": [1], "e": [], "deep": [{"l": [{"x": 1}]}, {"l": [{"x": 2, "y": 2}]}],
    });
    let value = |key: &str, value: i64| json!({"key": key, "match": {"value": value}});
    let nested = |key: &str, filter: Value| is(&payload, json!({"nested": {"key": key, "filter": filter}}));
    assert!(nested("l", json!({"must": [value("a", 1), value("b", 1)]})) && !nested("l", json!({"must": [value("a", 1), value("b", 2)]})));
    assert!(is(&payload, value("l[].a", 1)) && is(&payload, value("l[].b", 2)));
    assert!(nested("l[]", json!({"must": value("a", 2)})) && !nested("l", json!({"must": value("a", 9)})));
    assert!(nested("l", json!({"must_not": value("a", 1)})) && !nested("l", json!({"must": {"is_empty": {"key": "a"}}})));
    for never in ["o", "s", "e", "missing"] {
        assert!(!nested(never, json!({})) && !nested(never, json!({"must_not": value("a", 3)})), "{never}");
    }
    let inner = |x: i64, y: i64| json!({"must": {"nested": {"key": "l", "filter": {"must": [value("x", x), value("y", y)]}}}});
    assert!(nested("deep", inner(2, 2)) && !nested("deep", inner(1, 2)));
}

#[test]
fn a_refusal_names_the_place_and_the_thing() {
    let yes = json!({"key": "a", "match": {"value": 1}});
    let cases = [
        (json!([]), "filter: a filter is an object, not a list"),
        (json!({"musst": []}), "filter: a filter has no `musst`"),
        (json!({"must": 5}), "must: a condition is an object, not 5"),
        (json!({"must": [yes, {"keey": "a"}]}), "must[1]: there is no condition `keey`"),
        (
            json!({"must": [yes, yes, {"key": "a", "range": {"gte": true}}]}),
            "must[2].range.gte: a bound is a number or a date and time, not true",
        ),
        (
            json!({"must": {"key": "a", "range": {"gte": 1, "lt": "2020-01-01"}}}),
            "must.range.gte: a range is between dates or between numbers",
        ),
        (json!({"must": {"key": "a", "range": {"gte": "yesterday"}}}), "must.range.gte: `yesterday` is no date and time"),
        (json!({"must": {"key": "a", "range": {"ge": 1}}}), "must.range: `range` has no `ge`"),
        (json!({"must": {"key": "a[", "match": {"value": 1}}}), "must.key: `a[` is no path into a payload"),
        (json!({"must": {"key": 5, "match": {"value": 1}}}), "must.key: a string is wanted, not 5"),
        (json!({"must": {"key": "a"}}), "must: a `key` wants one of `match`"),
        (json!({"must": {"match": {"value": 1}}}), "must: `match` wants a `key`"),
        (json!({"must": {"key": "a", "match": {"value": 1}, "range": {}}}), "must: `match` and `range` stand in one condition"),
        (json!({"must": {"key": "a", "match": {"value": 1, "any": [1]}}}), "must.match: `value` and `any` stand in one `match`"),
        (json!({"must": {"key": "a", "match": {"regex": "a.*"}}}), "must.match: `match` has no `regex`"),
        (json!({"must": {"key": "a", "match": {}}}), "must.match: `match` wants one of"),
        (json!({"must": {"key": "a", "match": {"value": 1.5}}}), "must.match.value: 1.5 is no integer; `range` compares floats"),
        (json!({"must": {"key": "a", "match": {"value": [1]}}}), "must.match.value: a string, an integer or a bool is matched, not a list"),
        (json!({"must": {"key": "a", "match": {"any": [1, {}]}}}), "must.match.any[1]: "),
        (json!({"must": {"key": "a", "match": {"any": "x"}}}), "must.match.any: a list is wanted"),
        (json!({"must": {"key": "a", "values_count": {"gt": -1}}}), "must.values_count.gt: an integer from 0 is wanted, not -1"),
        (json!({"must": {"key": "a", "is_empty": "yes"}}), "must.is_empty: true or false is wanted, not `yes`"),
        (json!({"must": {"key": "a", "fuzzy": {}}}), "must: a condition on a `key` has no `fuzzy`"),
        (json!({"must": {"is_empty": {"key": "a", "x": 1}}}), "must.is_empty: a field has no `x`"),
        (json!({"must": {"is_empty": {"key": "a"}, "has_id": [1]}}), "must: `is_empty` has no `has_id`"),
        (json!({"must": {"has_id": [1, "x"]}}), "must.has_id[1]: "),
        (json!({"must": {"has_id": 1}}), "must.has_id: a list is wanted, not 1"),
        (json!({"must": {"slice": {"total": 3, "index": 3}}}), "must[0].slice.index: 3 is not below the total of 3"),
        (json!({"must": {"slice": {"total": 0, "index": 0}}}), "must[0].slice.total: there is at least one slice"),
        (json!({"min_should": {"conditions": [yes]}}), "min_should: `min_count` is missing"),
        (json!({"min_should": {"conditions": yes, "min_count": 1}}), "min_should.conditions: a list is wanted"),
        (json!({"must": {"nested": {"key": "a"}}}), "must.nested: `filter` is missing"),
        (
            json!({"must": {"nested": {"key": "a", "filter": {"must": {"has_id": [1]}}}}}),
            "must[0].nested.filter.must[0].has_id: it is about the whole point",
        ),
        (
            json!({"must": {"key": "a", "geo_radius": {"center": {"lat": 91, "lon": 0}, "radius": 1}}}),
            "must[0].geo_radius.center.lat: 91 degrees",
        ),
        (
            json!({"must": {"key": "a", "geo_radius": {"center": {"lat": 1, "lon": 0}, "radius": -1}}}),
            "must[0].geo_radius.radius: -1 metres is below zero",
        ),
        (json!({"must": {"key": "a", "geo_bounding_box": {"top_left": {"lat": 1}}}}), "must.geo_bounding_box.top_left: `lon` is missing"),
        (
            json!({"must": {"key": "a", "geo_polygon": {"exterior": {"points": []}}}}),
            "must[0].geo_polygon.exterior.points: a ring has at least 4 points",
        ),
    ];
    for (filter, expected) in cases {
        let refusal = refusal(&filter);
        assert!(refusal.starts_with("filter: ") && refusal.contains(expected), "{refusal} does not say: {expected}");
    }
    let open: Vec<Value> = (0..4).map(|lat| json!({"lat": lat, "lon": lat * lat})).collect();
    let refusal = refusal(&json!({"must": {"key": "a", "geo_polygon": {"exterior": {"points": open}}}}));
    assert!(refusal.contains("a ring ends where it starts"), "{refusal}");
}

#[test]
fn a_key_that_stands_there_twice_is_refused() {
    let read = |text: &str| serde_json::from_str::<Filter>(text).map_err(|error| error.to_string());
    assert!(read(r#"{"must": {"key": "a", "match": {"value": 1}}}"#).is_ok());
    for (twice, key) in [
        (r#"{"must": {"key": "a", "match": {"value": 1}}, "must": {"key": "b", "match": {"value": 1}}}"#, "must"),
        (r#"{"must": {"key": "a", "range": {"gte": 5, "gte": 0}}}"#, "gte"),
    ] {
        let refusal = read(twice).unwrap_err();
        assert!(refusal.contains(&format!("the key `{key}` stands there twice")), "{refusal}");
    }
}

#[test]
fn depth_and_numbers_of_conditions_have_limits() {
    let deep = |depth: usize| (1..depth).fold(json!({"must": {"has_id": [1]}}), |inner, _| json!({"must": [inner]}));
    assert!(Filter::parse(&deep(MAX_DEPTH)).is_ok());
    assert!(refusal(&deep(MAX_DEPTH + 1)).contains("32 deep"));
    assert!(refusal(&deep(300)).contains("32 deep"));
    let nested = (0..MAX_DEPTH).fold(json!({}), |inner, _| json!({"must": {"nested": {"key": "a", "filter": inner}}}));
    assert!(refusal(&nested).contains("32 deep"));
    let wide = |count: usize| json!({"must": vec![json!({"has_vector": "a"}); count - 1], "should": {"has_vector": "b"}});
    assert!(Filter::parse(&wide(MAX_CONDITIONS)).is_ok());
    assert!(refusal(&wide(MAX_CONDITIONS + 1)).contains("4096 conditions"));
    let long = |count: usize| json!({"must": {"has_id": (0..count).collect::<Vec<_>>()}});
    assert!(Filter::parse(&long(MAX_LISTED)).is_ok());
    assert!(refusal(&long(MAX_LISTED + 1)).contains("1048576 values"));
    // One that a program made goes through the same checks.
    let made = (0..MAX_DEPTH).fold(Filter::default(), |inner, _| Filter::must([inner.into()]));
    assert!(made.check().unwrap_err().to_string().contains("32 deep"));
    for bad in [Number::Float(f64::NAN), Number::Float(f64::INFINITY), Number::Integer(1 << 64), Number::Integer(-1 - (1 << 63))] {
        let filter = Filter::must([Condition::at(KeyPath::parse("a").unwrap()).in_range(Range { gt: Some(bad), ..Range::default() })]);
        assert!(filter.check().unwrap_err().to_string().starts_with("filter: must[0].range.gt: "), "{bad:?}");
    }
    let dates = Filter::must([Condition::field("a").in_datetime_range(DatetimeRange::default())]);
    assert!(dates.check().is_err());
}

#[test]
fn a_filter_made_in_a_program_is_the_one_read_from_json() {
    let at = |lat: f64, lon: f64| GeoPoint::new(lat, lon);
    let ring = vec![at(0.0, 0.0), at(0.0, 1.0), at(1.0, 1.0), at(0.0, 0.0)];
    let made = Filter::must([
        Condition::field("city").equals("Berlin"),
        Condition::field("n").any_of([3, 1]),
        Condition::field("n").none_of(["x"]),
        Condition::field("price").at_most(20),
        Condition::field("price").more_than(0.5),
        Condition::field("a[].b").contains("x"),
        Condition::field("a[].b").contains_any("x y"),
        Condition::field("a").starts_with("x"),
        Condition::field("where").within(10.0, at(1.0, 2.0)),
        Condition::field("where").in_box(at(1.0, 2.0), at(0.0, 3.0)),
        Condition::field("where").in_polygon(ring.clone(), vec![ring]),
        Condition::field("l").counts(ValuesCount { gte: Some(2), ..ValuesCount::default() }),
        Condition::field("at")
            .in_datetime_range(DatetimeRange { gt: Datetime::parse("2020-01-01 10:00:00.5"), ..DatetimeRange::default() }),
        Condition::field("x").is(Predicate::IsEmpty(false)),
        Condition::field("x").is(Predicate::Match(Match::Phrase("a b".to_owned()))),
        Condition::field("x").is(Predicate::Match(Match::Value(Scalar::Bool(true)))),
        Condition::has_id([PointId::Num(1)]),
        Condition::has_vector("image"),
        Condition::nested("list", Filter::should([Condition::is_null("x")])),
        Condition::Slice(Slice { total: 4, index: 1 }),
        Filter::min_should(1, [Condition::is_empty("a")]).into(),
    ])
    .and_must_not([Condition::field("x").at_least(u64::MAX), Condition::field("x").less_than(-1)]);
    made.check().unwrap();
    let json = json!({
        "must": [
            {"key": "city", "match": {"value": "Berlin"}}, {"key": "n", "match": {"any": [1, 3]}}, {"key": "n", "match": {"except": ["x"]}},
            {"key": "price", "range": {"lte": 20}}, {"key": "price", "range": {"gt": 0.5}},
            {"key": "a[].b", "match": {"text": "x"}}, {"key": "a[].b", "match": {"text_any": "x y"}}, {"key": "a", "match": {"prefix": "x"}},
            {"key": "where", "geo_radius": {"center": {"lat": 1.0, "lon": 2.0}, "radius": 10.0}},
            {"key": "where", "geo_bounding_box": {"top_left": {"lat": 1.0, "lon": 2.0}, "bottom_right": {"lat": 0.0, "lon": 3.0}}},
            {"key": "where", "geo_polygon": {
                "exterior": {"points": [{"lat": 0.0, "lon": 0.0}, {"lat": 0.0, "lon": 1.0}, {"lat": 1.0, "lon": 1.0}, {"lat": 0.0, "lon": 0.0}]},
                "interiors": [{"points": [{"lat": 0.0, "lon": 0.0}, {"lat": 0.0, "lon": 1.0}, {"lat": 1.0, "lon": 1.0}, {"lat": 0.0, "lon": 0.0}]}],
            }},
            {"key": "l", "values_count": {"gte": 2}}, {"key": "at", "range": {"gt": "2020-01-01T10:00:00.500000Z"}},
            {"key": "x", "is_empty": false}, {"key": "x", "match": {"phrase": "a b"}}, {"key": "x", "match": {"value": true}},
            {"has_id": [1]}, {"has_vector": "image"}, {"nested": {"key": "list", "filter": {"should": [{"is_null": {"key": "x"}}]}}},
            {"slice": {"total": 4, "index": 1}}, {"min_should": {"conditions": [{"is_empty": {"key": "a"}}], "min_count": 1}},
        ],
        "must_not": [{"key": "x", "range": {"gte": u64::MAX}}, {"key": "x", "range": {"lt": -1}}],
    });
    assert_eq!(serde_json::to_value(&made).unwrap(), json);
    assert_eq!(Filter::parse(&json).unwrap(), made);
    assert_eq!(serde_json::from_value::<Filter>(json).unwrap(), made);
}

#[test]
#[should_panic(expected = "a key in the program is no path")]
fn a_bad_path_in_a_program_is_a_defect_of_it() {
    let _ = Condition::field("a[");
}

#[test]
fn random_filters_agree_with_a_second_opinion_and_survive_writing() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let schemas = BTreeMap::new();
    let mut passed = 0;
    for round in 0..200 {
        let samples: Vec<_> = (0..20).map(|id| random::sample(&mut random, id)).collect();
        for _ in 0..50 {
            let json = random::filter(&mut random);
            let filter = Filter::parse(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
            for sample in &samples {
                let expected = Opinion { sample, schemas: &schemas }.passes(&json);
                assert_eq!(filter.matches(sample), expected, "round {round}: {json} on {}", Value::Object(sample.payload.clone()));
                passed += usize::from(expected);
            }
            let written = serde_json::to_value(&filter).unwrap();
            assert_eq!(Filter::parse(&written).unwrap(), filter, "{json} was written as {written}");
        }
    }
    assert!((40_000..160_000).contains(&passed), "{passed} of 200,000 passed: the filters say little");
}

#[test]
fn no_json_makes_the_parser_panic_and_what_it_takes_it_writes_back() {
    const KEYS: [&str; 32] = [
        "must",
        "should",
        "must_not",
        "min_should",
        "conditions",
        "min_count",
        "key",
        "match",
        "value",
        "any",
        "except",
        "text",
        "prefix",
        "range",
        "lt",
        "gte",
        "geo_radius",
        "center",
        "radius",
        "lat",
        "lon",
        "geo_polygon",
        "exterior",
        "points",
        "values_count",
        "is_empty",
        "is_null",
        "has_id",
        "nested",
        "filter",
        "slice",
        "total",
    ];
    fn value(random: &mut ChaCha8Rng, depth: usize) -> Value {
        let kinds = if depth == 0 { 7 } else { 14 };
        match random.random_range(0..kinds) {
            0 => Value::Null,
            1 => random.random::<bool>().into(),
            2 => random.random::<i64>().into(),
            3 => random.random_range(0..4).into(),
            4 => random.random::<f64>().into(),
            5 => ["a", "a[].b", "a[", "2020-01-01", ""][random.random_range(0..5)].into(),
            6 => Value::Array(Vec::new()),
            7..9 => (0..random.random_range(1..4)).map(|_| value(random, depth - 1)).collect(),
            _ => {
                let fields =
                    (0..random.random_range(0..4)).map(|_| (KEYS[random.random_range(0..KEYS.len())].to_owned(), value(random, depth - 1)));
                Value::Object(fields.collect())
            }
        }
    }
    /// Puts something else at one place of a good filter.
    fn damage(random: &mut ChaCha8Rng, place: &mut Value) {
        match place {
            Value::Object(fields) if !fields.is_empty() && random.random_range(0..4) > 0 => {
                let key = fields.keys().nth(random.random_range(0..fields.len())).unwrap().clone();
                damage(random, &mut fields[&key]);
            }
            Value::Array(elements) if !elements.is_empty() && random.random_range(0..4) > 0 => {
                let position = random.random_range(0..elements.len());
                damage(random, &mut elements[position]);
            }
            other => *other = value(random, 2),
        }
    }
    let mut random = ChaCha8Rng::seed_from_u64(12);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..60_000 {
        let json = if round % 2 == 0 {
            value(&mut random, 5)
        } else {
            let mut json = random::filter(&mut random);
            damage(&mut random, &mut json);
            json
        };
        match Filter::parse(&json) {
            Ok(filter) => {
                taken += 1;
                assert_eq!(Filter::parse(&serde_json::to_value(&filter).unwrap()).unwrap(), filter, "{json}");
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(error, crate::Error::Filter { .. }), "{json}: {error}");
            }
        }
    }
    assert!(taken > 5_000 && refused > 20_000, "{taken} taken, {refused} refused");
}
