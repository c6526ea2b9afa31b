package modbus

// Validate reports every problem of a configuration whose defaults are set:
// path is where, relative to the modbus section (links[0].units[1].name),
// problem what is wrong and how to mend it. It changes nothing.
func (c *Config) Validate(report func(path, problem string)) {
}
