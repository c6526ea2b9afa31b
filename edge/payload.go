package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"
	"unicode/utf8"

	"forebay/modbus"
)

// maxCommand bounds the payload of a command, in bytes.
const maxCommand = 1024

var errTooLong = errors.New("the command is longer than 1024 bytes")

// parseCommand reads the value of a command: as JSON a number, a text, true or
// false, alone or as {"value": …}, which may have the word that arms it too;
// anything that is not JSON is a text. Numbers are returned as json.Number, exact.
func parseCommand(payload []byte) (value any, arm string, err error) {
	switch {
	case len(bytes.TrimSpace(payload)) == 0:
		return nil, "", errors.New("the command is empty; send a value such as 42, true or {\"value\":42}")
	case len(payload) > maxCommand:
		return nil, "", errTooLong
	case !utf8.Valid(payload):
		return nil, "", errors.New("the command is no text; send a value such as 42, true or {\"value\":42}")
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return string(payload), "", nil
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return string(payload), "", nil // more than one value: a text that begins like JSON
	}
	if group, ok := v.(map[string]any); ok {
		value, ok := group["value"]
		word, armed := group["arm"]
		arm, isText := word.(string)
		if !ok || armed != (len(group) == 2) || len(group) > 2 || armed && !isText {
			return nil, "", errors.New("the command must be {\"value\": …}, with \"arm\" as well if it is armed, and nothing else")
		}
		switch value.(type) {
		case bool, string, json.Number:
			return value, arm, nil
		}
	}
	switch v.(type) {
	case bool, string, json.Number:
		return v, "", nil
	}
	return nil, "", errors.New("the command must be a number, a text, true or false")
}

// commandResult is what became of a command.
type commandResult struct {
	Result string       // written, refused (nothing has changed) or unknown
	Value  modbus.Value // read back; null if it was not
	Before modbus.Value // read just before; null if it was not
	Time   time.Time
	Error  string // why the result is not "written"
}

// payload returns the result as JSON. requested is the payload of the command.
func (r commandResult) payload(requested []byte) []byte {
	b := append([]byte(`{"result":"`), r.Result...)
	b = append(b, `","value":`...)
	b = r.Value.AppendJSON(b)
	b = append(b, `,"before":`...)
	b = r.Before.AppendJSON(b)
	b = append(b, `,"requested":`...)
	b = append(b, shortJSON(requested)...)
	b = append(b, `,"time":`...)
	b = appendTime(b, r.Time)
	if r.Error != "" {
		b = append(append(b, `,"error":`...), quoteJSON(r.Error)...)
	}
	return append(b, '}')
}

// shortJSON returns a payload as JSON: itself if it is, else as a text, cut if
// it is long.
func shortJSON(payload []byte) []byte {
	const limit = 256
	if len(payload) <= limit && json.Valid(payload) {
		return bytes.TrimSpace(payload)
	}
	return quoteJSON(string(payload[:min(len(payload), limit)]))
}
