//! A chat template with tools, for a model that came with one without.

/// A template in the way of Hermes and Qwen 2.5.
pub(crate) const TEMPLATE: &str = "{%- if tools %}<|im_start|>system\nYou may call functions:\n{%- for tool in tools %}\n{{ tool | tojson }}{%- endfor %}\n\
    For each call return <tool_call>\n{\"name\": <name>, \"arguments\": <arguments>}\n</tool_call><|im_end|>\n{%- endif %}\
    {%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}\
    {%- for call in message.tool_calls %}\n<tool_call>\n{{ call.function | tojson }}\n</tool_call>{%- endfor %}<|im_end|>\n{%- endfor %}\
    {%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}";
