package edge

import (
	"regexp"
	"strings"

	"forebay/modbus"
)

// Commands for a tag come on its topic with setSuffix behind it, their results
// go to the same with resultSuffix behind that.
const (
	setSuffix    = "/set"
	resultSuffix = "/result"
)

var placeholder = regexp.MustCompile(`\{[^{}]*\}`)

// unknownPlaceholder returns the first {…} of a topic template that has no
// meaning, or a brace that is left over; "" if all is well.
func unknownPlaceholder(template string) string {
	for _, found := range placeholder.FindAllString(template, -1) {
		switch found {
		case "{site}", "{link}", "{unit}", "{tag}":
		default:
			return found
		}
	}
	rest := placeholder.ReplaceAllString(template, "")
	if i := strings.IndexAny(rest, "{}"); i >= 0 {
		return rest[i : i+1]
	}
	return ""
}

// tagTopic is the topic of a tag's samples.
func (c *Config) tagTopic(link *modbus.LinkConfig, unit *modbus.UnitConfig, tag *modbus.TagConfig) string {
	return strings.NewReplacer(
		"{site}", c.Site, "{link}", link.Name, "{unit}", unit.Name, "{tag}", tag.Name,
	).Replace(unit.Topic)
}

// tagPart ends the topic of a unit that publishes groups, and is left out of the
// topic of the group.
const tagPart = "/{tag}"

// groupTopic is the topic of a unit's groups, "" if it can have none.
func (c *Config) groupTopic(link *modbus.LinkConfig, unit *modbus.UnitConfig) string {
	template, ok := strings.CutSuffix(unit.Topic, tagPart)
	if !ok || strings.Contains(template, "{tag}") {
		return ""
	}
	return strings.NewReplacer("{site}", c.Site, "{link}", link.Name, "{unit}", unit.Name).Replace(template)
}

// stateTopic is the retained topic that says whether a unit answers.
func stateTopic(link *modbus.LinkConfig, unit *modbus.UnitConfig) string {
	return "modbus/" + link.Name + "/" + unit.Name + "/state"
}

// eachTag calls fn for every tag in the order of the configuration.
func (c *Config) eachTag(fn func(*modbus.LinkConfig, *modbus.UnitConfig, *modbus.TagConfig)) {
	for i := range c.Modbus.Links {
		eachTag([]*modbus.LinkConfig{&c.Modbus.Links[i]}, fn)
	}
}

// eachTag calls fn for every tag of links. Its pointers are those that samples
// have.
func eachTag(links []*modbus.LinkConfig, fn func(*modbus.LinkConfig, *modbus.UnitConfig, *modbus.TagConfig)) {
	for _, link := range links {
		for j := range link.Units {
			unit := &link.Units[j]
			for k := range unit.Tags {
				fn(link, unit, &unit.Tags[k])
			}
		}
	}
}
