//! Parameters that come in several forms: a prompt, a stop.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// `prompt` of a completion: a string, a list of strings, a list of token ids or a list of such lists. A single one is a list of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    Text(Vec<String>),
    Ids(Vec<Vec<u32>>),
}

impl Prompt {
    /// Number of prompts, at least 1.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(prompts) => prompts.len(),
            Self::Ids(prompts) => prompts.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `stop`: a string or a list of strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop(pub Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Stop, A::Error> {
                let mut strings = Vec::new();
                while let Some(text) = list.next_element()? {
                    strings.push(text);
                }
                Ok(Stop(strings))
            }
        }
        deserializer.deserialize_any(Strings)
    }
}

/// One element of a list of prompts, or of one list of token ids.
enum Item {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
}

const PROMPT: &str = "a string, a list of strings, a list of token ids or a list of lists of token ids";

fn token_id<E: Error>(id: impl TryInto<u32> + fmt::Display + Copy) -> Result<u32, E> {
    id.try_into().map_err(|_| E::custom(format_args!("{id} is not a token id")))
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PROMPT)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Item, E> {
                Ok(Item::Text(text))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<Item, E> {
                token_id(id).map(Item::Id)
            }

            fn visit_i64<E: Error>(self, id: i64) -> Result<Item, E> {
                token_id(id).map(Item::Id)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
                let mut ids = Vec::new();
                while let Some(item) = list.next_element()? {
                    match item {
                        Item::Id(id) => ids.push(id),
                        Item::Text(_) | Item::Ids(_) => return Err(A::Error::custom(format_args!("expected {PROMPT}"))),
                    }
                }
                Ok(Item::Ids(ids))
            }
        }
        deserializer.deserialize_any(Items)
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Prompts;
        impl<'de> Visitor<'de> for Prompts {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PROMPT)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(vec![text.to_owned()]))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Prompt, E> {
                Ok(Prompt::Text(vec![text]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
                let mut prompt = match list.next_element()? {
                    None => return Err(A::Error::custom("an empty list holds no prompt")),
                    // A flat list of ids is one prompt.
                    Some(Item::Id(first)) => {
                        let mut ids = vec![first];
                        while let Some(id) = list.next_element::<i64>()? {
                            ids.push(token_id(id)?);
                        }
                        return Ok(Prompt::Ids(vec![ids]));
                    }
                    Some(Item::Text(text)) => Prompt::Text(vec![text]),
                    Some(Item::Ids(ids)) => Prompt::Ids(vec![ids]),
                };
                while let Some(item) = list.next_element()? {
                    match (&mut prompt, item) {
                        (Prompt::Text(prompts), Item::Text(text)) => prompts.push(text),
                        (Prompt::Ids(prompts), Item::Ids(ids)) => prompts.push(ids),
                        _ => return Err(A::Error::custom(format_args!("mixed forms, expected {PROMPT}"))),
                    }
                }
                Ok(prompt)
            }
        }
        deserializer.deserialize_any(Prompts)
    }
}
