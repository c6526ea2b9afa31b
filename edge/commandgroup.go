package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"forebay/modbus"
)

// groupTargets returns where commands for several tags of a unit at once go: by
// the topic of the unit's tags without the tag. A unit has none when that topic
// is another one's too.
func groupTargets(cfg *Config, taken map[string]bool) map[string]target {
	groups := map[string]target{}
	cfg.eachTag(func(link *modbus.LinkConfig, unit *modbus.UnitConfig, _ *modbus.TagConfig) {
		topic := cfg.groupTopic(link, unit)
		if topic == "" || taken[topic+setSuffix] {
			return
		}
		to := target{link: link.Name, unit: unit.Name}
		if other, known := groups[topic+setSuffix]; known && other != to {
			taken[topic+setSuffix] = true
			delete(groups, topic+setSuffix)
			return
		}
		groups[topic+setSuffix] = to
	})
	return groups
}

// takenTopics returns the topics that mean something else than a group: those of
// the tags and states, and of the commands for tags.
func takenTopics(cfg *Config) map[string]bool {
	taken := map[string]bool{}
	cfg.eachTag(func(link *modbus.LinkConfig, unit *modbus.UnitConfig, tag *modbus.TagConfig) {
		topic := cfg.tagTopic(link, unit, tag)
		taken[topic], taken[topic+setSuffix], taken[stateTopic(link, unit)] = true, true, true
		if unit.Payload == modbus.PayloadGroup {
			taken[cfg.groupTopic(link, unit)] = true
		}
	})
	return taken
}

// parseGroup reads the values of a command for several tags: a JSON object of
// numbers, texts, true and false by the names of the tags.
func parseGroup(payload []byte) (map[string]any, error) {
	bad := errors.New(`the command must be a JSON object with a value for each tag, such as {"speed":40,"run":true}`)
	if len(payload) > maxCommand {
		return nil, errTooLong
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	var values map[string]any
	if err := d.Decode(&values); err != nil || len(values) == 0 || len(bytes.TrimSpace(payload[d.InputOffset():])) > 0 {
		return nil, bad
	}
	for _, v := range values {
		switch v.(type) {
		case bool, string, json.Number:
		default:
			return nil, bad
		}
	}
	return values, nil
}

// checkGroup is check of a command for several tags.
func (c *commands) checkGroup(cmd *command) string {
	values, err := parseGroup(cmd.payload)
	if err != nil {
		return err.Error()
	}
	for name := range values {
		if c.arms[target{cmd.target.link, cmd.target.unit, name}] != "" {
			return fmt.Sprintf("%s is armed by a word: it is written on its own topic only", name)
		}
	}
	cmd.value = values
	return ""
}

// write has a command written. The result is that of success.
func (c *commands) write(ctx context.Context, cmd *command) (commandResult, error) {
	to := cmd.target
	values, isGroup := cmd.value.(map[string]any)
	if !isGroup {
		done, err := c.writer.Write(ctx, to.link, to.unit, to.tag, cmd.value)
		return commandResult{Result: "written", Value: done.After, Before: done.Before, Time: done.Time}, err
	}
	done, err := c.writer.WriteAll(ctx, to.link, to.unit, values)
	result := commandResult{
		Result: "written",
		Value:  groupValues(done, func(r modbus.WriteResult) modbus.Value { return r.After }),
		Before: groupValues(done, func(r modbus.WriteResult) modbus.Value { return r.Before }),
	}
	if len(done) > 0 {
		result.Time = done[0].Time
	}
	return result, err
}

// requested is what an answer repeats of a command: of one for an armed tag only
// the value, not the word.
func (c *commands) requested(cmd *command) []byte {
	if c.arms[cmd.target] == "" {
		return cmd.payload
	}
	value, err := json.Marshal(cmd.value)
	if err != nil {
		return []byte("null")
	}
	return value
}

// groupValues makes an object of the values that results have, by tag; null when
// there are none.
func groupValues(results []modbus.WriteResult, value func(modbus.WriteResult) modbus.Value) modbus.Value {
	byName := map[string]modbus.Value{}
	for _, r := range results {
		if r.Tag != nil {
			byName[r.Tag.Name] = value(r)
		}
	}
	if len(byName) == 0 {
		return modbus.Value{}
	}
	object := []byte{'{'}
	for i, name := range slices.Sorted(maps.Keys(byName)) {
		if i > 0 {
			object = append(object, ',')
		}
		object = append(append(object, quoteJSON(name)...), ':')
		object = byName[name].AppendJSON(object)
	}
	return modbus.ObjectValue(string(append(object, '}')))
}

// maxRepeats bounds the commands whose identifiers are remembered, repeatLife
// how long.
const (
	maxRepeats = 1024
	repeatLife = time.Hour
)

// repeats remembers the commands that had an identifier, so that one that a
// client sends again, because it does not know whether it arrived, is not
// executed twice. A restart forgets them.
type repeats struct {
	known map[repeatKey]*repeat
	order []repeatKey // the oldest first
}

// repeatKey tells commands apart: two tags may get the same identifier.
type repeatKey struct{ topic, id string }

// repeat is a command that was taken before.
type repeat struct {
	at     time.Time
	done   bool
	result commandResult // once done
}

// repeated reports whether a command was taken before. If so it is over: it gets
// the answer of the first one, if there is one already.
func (c *commands) repeated(ctx context.Context, cmd *command) bool {
	if cmd.id == "" {
		return false
	}
	c.mu.Lock()
	before := c.repeats.take(repeatKey{cmd.topic, cmd.id}, c.now())
	done, result := false, commandResult{}
	if before != nil {
		done, result = before.done, before.result
	}
	c.mu.Unlock()
	if before == nil {
		return false
	}
	c.log.Info("command repeated: it is not written again", "topic", cmd.topic, "id", cmd.id)
	if done {
		c.answer(ctx, cmd, result)
	}
	c.finish(cmd.n)
	return true
}

// remember keeps what became of a command that has an identifier.
func (c *commands) remember(cmd *command, result commandResult) {
	if cmd.id == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.repeats.finish(repeatKey{cmd.topic, cmd.id}, result)
}

// take returns the command of that key that was taken before, or nil, and then
// remembers this one.
func (r *repeats) take(key repeatKey, now time.Time) *repeat {
	for len(r.order) > 0 && (len(r.order) >= maxRepeats || now.Sub(r.known[r.order[0]].at) > repeatLife) {
		delete(r.known, r.order[0])
		r.order = r.order[1:]
	}
	if before := r.known[key]; before != nil {
		return before
	}
	if r.known == nil {
		r.known = map[repeatKey]*repeat{}
	}
	r.known[key] = &repeat{at: now}
	r.order = append(r.order, key)
	return nil
}

// finish remembers what became of a command.
func (r *repeats) finish(key repeatKey, result commandResult) {
	if known := r.known[key]; known != nil {
		known.done, known.result = true, result
	}
}
