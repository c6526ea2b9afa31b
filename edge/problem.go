package edge

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong in a configuration, on one line.
type Problem struct {
	Path string // where in the configuration: bridges[0].addresses; empty for the whole file
	Text string // what is wrong; how to mend it
	Line int    // in the file, from 1; 0 when the format does not tell
}

// ConfigError is everything that is wrong with one configuration file.
type ConfigError struct {
	File     string
	Problems []Problem // never empty, in the order of the file as far as it is known
}

// Error returns one line for each problem: file:line: path: text.
func (e *ConfigError) Error() string { return strings.Join(e.Lines(), "\n") }

// Lines returns the lines of Error.
func (e *ConfigError) Lines() []string {
	lines := make([]string, 0, len(e.Problems))
	for _, p := range e.Problems {
		var b strings.Builder
		b.WriteString(e.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
		if p.Path != "" {
			b.WriteString(p.Path)
			b.WriteString(": ")
		}
		b.WriteString(p.Text)
		lines = append(lines, b.String())
	}
	return lines
}

// problems gathers what is wrong and knows where in the file each path is.
type problems struct {
	lines positions
	list  []Problem
	// origins are the paths of what a profile has brought, and its file.
	origins map[string]string
}

func (p *problems) add(path, format string, args ...any) {
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	if file := p.origin(path); file != "" {
		text += " (in " + file + ")"
	}
	p.list = append(p.list, Problem{Path: path, Text: text, Line: p.lines.of(path)})
}

// origin returns the profile that the setting at path, or one around it, is from.
func (p *problems) origin(path string) string {
	for path != "" {
		if file, ok := p.origins[path]; ok {
			return file
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return ""
}

// report has the form that the Validate methods of the parts expect.
func (p *problems) report(path, problem string) { p.add(path, "%s", problem) }

// err returns nil or a *ConfigError with the problems in file order.
func (p *problems) err(file string) error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b Problem) int { return a.Line - b.Line })
	return &ConfigError{File: file, Problems: slices.Compact(p.list)}
}

// join puts a key or an [index] behind a path.
func join(prefix, path string) string {
	if prefix == "" || path == "" || strings.HasPrefix(path, "[") {
		return prefix + path
	}
	return prefix + "." + path
}
