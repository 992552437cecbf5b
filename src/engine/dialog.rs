//! Chats with models that read with an encoder, such as FLAN-T5. They came without a chat template and were taught single
//! tasks: a question alone is given to them as it stands, a chat as the text of a dialogue.

use crate::openai::Message;

/// The template of such chats. Lines are for the reader: these vocabularies know no line break.
pub(super) const TEMPLATE: &str = "\
{%- for message in messages if message['role'] in ['system', 'developer'] %}{{ message['content'] }}\n\n{% endfor %}\
{%- set said = messages | rejectattr('role', 'in', ['system', 'developer']) | list %}\
{%- if said | length == 1 and said[0]['role'] == 'user' %}{{ said[0]['content'] }}\
{%- else %}\
{%- for message in said %}{{ {'user': 'User', 'assistant': 'Assistant'}[message['role']] | default(message['role'] | capitalize) }}: \
{{ message['content'] }}\n{% endfor %}\
{%- if add_generation_prompt %}Assistant:{% endif %}\
{%- endif %}";

/// Parts a chat from what its answer has begun with: the last message, where that is the assistant's.
pub(super) fn parted(messages: &[Message]) -> (&[Message], &str) {
    match messages.split_last() {
        Some((last, before))
            if last.role == "assistant" && last.tool_calls.is_empty() && !before.is_empty() =>
        {
            (before, last.content.as_deref().unwrap_or_default())
        }
        _ => (messages, ""),
    }
}

/// Returns how many of the oldest turns may be left out: all but the last question.
pub(super) fn spare_turns(messages: &[Message]) -> usize {
    questions(messages).count().saturating_sub(1)
}

/// Returns the chat without so many of its oldest turns: a question, and what came of it. What the system says stays.
pub(super) fn without(messages: &[Message], turns: usize) -> Vec<Message> {
    let first = if turns == 0 { Some(0) } else { questions(messages).nth(turns) };
    let first = first.unwrap_or(messages.len());
    let stays = |(index, message): &(usize, &Message)| *index >= first || is_system(message);
    messages.iter().enumerate().filter(stays).map(|(_, message)| message.clone()).collect()
}

fn questions(messages: &[Message]) -> impl Iterator<Item = usize> {
    messages.iter().enumerate().filter(|(_, message)| message.role == "user").map(|(index, _)| index)
}

fn is_system(message: &Message) -> bool {
    ["system", "developer"].contains(&message.role.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::engine::template::Template;

    fn chat(said: &[(&str, &str)]) -> Vec<Message> {
        said.iter().map(|(role, text)| Message::new(*role, *text)).collect()
    }

    fn prompt(messages: &[Message]) -> String {
        Template::new(TEMPLATE, "", "</s>").unwrap().render(messages, &[], &Map::new()).unwrap()
    }

    #[test]
    fn a_question_alone_stands_as_it_is_and_a_chat_is_a_dialogue() {
        let one = chat(&[("user", "Translate to German: good day")]);
        assert_eq!(prompt(&one), "Translate to German: good day");
        let told = chat(&[("system", "Be brief."), ("user", "Who are you?")]);
        assert_eq!(prompt(&told), "Be brief.\n\nWho are you?");
        let long = chat(&[("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c")]);
        assert_eq!(prompt(&long), "Be brief.\n\nUser: a\nAssistant: b\nUser: c\nAssistant:");
    }

    #[test]
    fn the_oldest_turns_are_left_out_and_what_the_system_says_is_not() {
        let long = chat(&[("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("user", "d")]);
        assert_eq!(spare_turns(&long), 2);
        assert_eq!(without(&long, 0), long);
        assert_eq!(without(&long, 1), chat(&[("system", "s"), ("user", "c"), ("user", "d")]));
        assert_eq!(without(&long, 2), chat(&[("system", "s"), ("user", "d")]));
        assert_eq!(spare_turns(&chat(&[("assistant", "hello")])), 0);
    }

    #[test]
    fn an_answer_that_has_begun_is_not_read_but_gone_on_with() {
        let begun = chat(&[("user", "a"), ("assistant", "Well, ")]);
        assert_eq!(parted(&begun), (&begun[..1], "Well, "));
        assert_eq!(parted(&begun[..1]), (&begun[..1], ""));
        let alone = chat(&[("assistant", "hello")]);
        assert_eq!(parted(&alone), (&alone[..], ""));
    }
}
