package edge

import "forebay/bridge"

// Loops says, one line each, where rules of bridges lead messages in circles.
// It is no error: within one bridge no-local stops them in MQTT 5.0, and all of
// them end at max_hops.
func (c *Config) Loops() []string {
	var lines []string
	for _, l := range bridge.FindLoops(c.Bridges, c.Site) {
		lines = append(lines, l.String())
	}
	return lines
}

// reportLoops logs them, at the start and after a reload.
func (g *Gateway) reportLoops(c *Config) {
	for _, l := range bridge.FindLoops(c.Bridges, c.Site) {
		level := g.log.Warn
		if l.Up == l.Down {
			level = g.log.Info // many upstreams are meant to be in step with the site
		}
		level("config: " + l.String())
	}
}
