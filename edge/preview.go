package edge

import "forebay/bridge"

// Passage is what becomes of messages on a topic in one direction of a bridge.
type Passage = bridge.Passage

// Preview says what each bridge does with messages on a topic, as the
// configuration has it, in its order. The error is for the user: it is no topic
// of a message.
func (c *Config) Preview(topic string) ([]bridge.Preview, error) {
	var list []bridge.Preview
	for _, b := range c.Bridges {
		p, err := bridge.PreviewTopic(b, c.Site, topic)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}
