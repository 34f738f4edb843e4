//! From a text to the tokens that a text index holds, and from a query to those that it asks for.
//!
//! The prefix tokenizer does not store prefixes: a text's tokens are its words, and a word meets every query token that it
//! starts with. That is the same set of answers from an index a fraction of the size.

use std::collections::BTreeSet;

use unicode_segmentation::UnicodeSegmentation;

/// How words are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// Runs of letters and digits.
    Word,
    /// Whatever stands between white space.
    Whitespace,
    /// As `Word`; a query token is met by every word that starts with it.
    Prefix,
    /// Words after Unicode's annex 29. Scripts that do not mark words (Chinese, Japanese, Thai) fall into characters: there is
    /// no dictionary.
    Multilingual,
}

/// How a text becomes tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenizer {
    pub kind: TokenizerKind,
    /// Shorter tokens are left out. In characters.
    pub min_token_len: Option<usize>,
    /// Longer tokens are left out; those of a prefix query are cut to it. In characters.
    pub max_token_len: Option<usize>,
    pub lowercase: bool,
    /// Tokens that are left out.
    pub stopwords: BTreeSet<String>,
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self { kind: TokenizerKind::Word, min_token_len: None, max_token_len: None, lowercase: true, stopwords: BTreeSet::new() }
    }
}

impl Tokenizer {
    /// Calls `each` with the tokens of a stored text, in their order.
    pub(crate) fn words(&self, text: &str, each: &mut dyn FnMut(&str)) {
        // A word of any length starts with tokens that are short enough.
        let longest = self.max_token_len.filter(|_| self.kind != TokenizerKind::Prefix);
        self.split(text, &mut |word| {
            if self.is_long_enough(word) && longest.is_none_or(|max| word.chars().nth(max).is_none()) && !self.stopwords.contains(word) {
                each(word);
            }
        });
    }

    /// The tokens of a query, in their order.
    pub(crate) fn query(&self, text: &str) -> Vec<String> {
        let mut tokens = Vec::new();
        if self.kind == TokenizerKind::Prefix {
            // Stop words stay: `the` may be the beginning of `theory`.
            self.split(text, &mut |word| {
                let token: String = word.chars().take(self.max_token_len.unwrap_or(usize::MAX)).collect();
                if self.is_long_enough(&token) {
                    tokens.push(token);
                }
            });
        } else {
            self.words(text, &mut |word| tokens.push(word.to_owned()));
        }
        tokens
    }

    /// Does a stored word answer a token of a query?
    pub(crate) fn meets(&self, word: &str, token: &str) -> bool {
        if self.meets_beginnings() { word.starts_with(token) } else { word == token }
    }

    /// Is a token answered by every word that starts with it?
    pub(crate) fn meets_beginnings(&self) -> bool {
        self.kind == TokenizerKind::Prefix
    }

    /// Does the text hold the phrase's tokens one after the other? None holds a phrase without tokens.
    pub(crate) fn holds_phrase(&self, text: &str, phrase: &str) -> bool {
        let tokens = self.query(phrase);
        if tokens.is_empty() {
            return false;
        }
        let mut words = Vec::new();
        self.words(text, &mut |word| words.push(word.to_owned()));
        words.windows(tokens.len()).any(|run| run.iter().zip(&tokens).all(|(word, token)| self.meets(word, token)))
    }

    fn is_long_enough(&self, token: &str) -> bool {
        self.min_token_len.is_none_or(|min| min == 0 || token.chars().nth(min - 1).is_some())
    }

    /// The words of a text before any is left out.
    fn split(&self, text: &str, each: &mut dyn FnMut(&str)) {
        let mut word = |word: &str| {
            if self.lowercase && word.chars().any(|c| !c.is_lowercase()) {
                each(&word.to_lowercase());
            } else {
                each(word);
            }
        };
        match self.kind {
            TokenizerKind::Word | TokenizerKind::Prefix => {
                text.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()).for_each(&mut word);
            }
            TokenizerKind::Whitespace => text.split_whitespace().for_each(&mut word),
            TokenizerKind::Multilingual => text.unicode_words().for_each(&mut word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        tokenizer.words(text, &mut |word| words.push(word.to_owned()));
        words
    }

    fn of(kind: TokenizerKind) -> Tokenizer {
        Tokenizer { kind, ..Tokenizer::default() }
    }

    #[test]
    fn each_tokenizer_finds_its_words() {
        let text = "Hello, World-wide! Привет it's";
        assert_eq!(words(&of(TokenizerKind::Word), text), ["hello", "world", "wide", "привет", "it", "s"]);
        assert_eq!(words(&of(TokenizerKind::Whitespace), text), ["hello,", "world-wide!", "привет", "it's"]);
        assert_eq!(words(&of(TokenizerKind::Multilingual), text), ["hello", "world", "wide", "привет", "it's"]);
        assert_eq!(words(&of(TokenizerKind::Multilingual), "今天 ok"), ["今", "天", "ok"]);
        assert_eq!(words(&Tokenizer { lowercase: false, ..Tokenizer::default() }, "Hello"), ["Hello"]);
        let bounded = Tokenizer { min_token_len: Some(2), max_token_len: Some(4), ..Tokenizer::default() };
        assert_eq!(words(&bounded, "a bb größe мир dddd eeeee"), ["bb", "мир", "dddd"]);
        let stopped = Tokenizer { stopwords: BTreeSet::from(["the".to_owned()]), ..Tokenizer::default() };
        assert_eq!(words(&stopped, "The theory"), ["theory"]);
    }

    #[test]
    fn a_prefix_query_is_met_by_the_words_that_start_with_it() {
        let tokenizer = Tokenizer { min_token_len: Some(2), max_token_len: Some(4), ..of(TokenizerKind::Prefix) };
        assert_eq!(words(&tokenizer, "h hello мир"), ["hello", "мир"]);
        assert_eq!(tokenizer.query("Hello h мир"), ["hell", "мир"]);
        assert!(tokenizer.meets("hello", "hel") && !tokenizer.meets("hel", "hello") && !tokenizer.meets("shell", "hel"));
    }

    #[test]
    fn a_phrase_is_a_run_of_tokens() {
        let tokenizer = Tokenizer::default();
        assert!(tokenizer.holds_phrase("The quick brown fox", "Quick, brown"));
        assert!(!tokenizer.holds_phrase("The quick brown fox", "quick fox"));
        assert!(!tokenizer.holds_phrase("The quick brown fox", "..."));
        assert!(!tokenizer.holds_phrase("quick", "quick quick"));
    }
}
