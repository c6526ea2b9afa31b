package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"
)

// positions gives the line of each path of a configuration file.
type positions map[string]int

// of returns the line of path or of the nearest enclosing path that is known,
// 0 when none is.
func (p positions) of(path string) int {
	for path != "" {
		if line, ok := p[path]; ok {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return p[""]
}

// maxDepth bounds the nesting of a configuration; ours is eight deep.
const maxDepth = 64

// layout is what the text of a configuration file tells beside its values.
type layout struct {
	lines positions
	// texts gives plain scalars as they are written: 007 and 0x8000 are numbers
	// to YAML, but a manual's reference and a bit pattern to the reader.
	texts map[string]string
	// list is what makes the rest of the file meaningless.
	list []Problem
}

// layoutOf checks the syntax of b and the form of its keys, and finds lines and
// texts where the format gives them: YAML and JSON.
func layoutOf(format string, b []byte) layout {
	l := layout{lines: positions{}, texts: map[string]string{}}
	switch format {
	case "toml":
		l.toml(b)
	case "json":
		// JSON that is valid is YAML, as far as positions go.
		if l.json(b) {
			l.yaml(b)
		}
	default:
		l.yaml(b)
	}
	return l
}

func (l *layout) add(p Problem) { l.list = append(l.list, p) }

// key judges the form of one key. The reader folds letters and splits at the
// delimiter, and so would let two keys become one.
func (l *layout) key(key, path string, line int) {
	if lower := strings.ToLower(key); key != lower {
		l.add(Problem{Path: path, Text: "keys are written in small letters: " + lower, Line: line})
	}
	if strings.Contains(key, delimiter) {
		l.add(Problem{Path: path, Text: "not a key; nest it instead of " + delimiter, Line: line})
	}
}

func (l *layout) json(b []byte) bool {
	var v any
	err := json.Unmarshal(b, &v)
	if err == nil {
		return true
	}
	p := Problem{Text: "not JSON: " + strings.TrimPrefix(err.Error(), "json: ")}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		p.Line = 1 + bytes.Count(b[:min(int(syntax.Offset), len(b))], []byte("\n"))
	}
	if strings.Contains(p.Text, "unexpected end of JSON input") {
		p.Text = "the file ends in the middle; restore the rest"
	}
	l.add(p)
	return false
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

// yamlProblem turns an error of the YAML decoder into a problem with its line.
func yamlProblem(err error) Problem {
	first, _, _ := strings.Cut(err.Error(), "\n")
	m := yamlLine.FindStringSubmatch(first)
	line, _ := strconv.Atoi(m[1]) // no line: 0, which is what Problem wants
	return Problem{Text: "not YAML: " + m[2] + "; check indentation, brackets and quotes around this line", Line: line}
}

func (l *layout) yaml(b []byte) {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		l.add(yamlProblem(err))
		return
	}
	switch {
	case len(doc.Content) == 0:
		l.add(Problem{Text: "the file holds comments only; it needs at least one setting, for example log: {level: info}"})
	case doc.Content[0].Kind != yaml.MappingNode:
		l.add(Problem{Text: "not a configuration: it must begin with keys such as site: or broker:", Line: doc.Content[0].Line})
	default:
		l.lines[""] = 0
		l.node(doc.Content[0], "", 0)
	}
}

// node walks one YAML node. An alias is left alone: it may point at its own
// parent, and what it stands for is walked where it is written.
func (l *layout) node(n *yaml.Node, path string, depth int) {
	if depth > maxDepth {
		l.add(Problem{Path: path, Text: "nested too deeply", Line: n.Line})
		return
	}
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Style == 0 || n.Style == yaml.TaggedStyle {
			l.texts[path] = n.Value
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			l.lines[at] = item.Line
			l.node(item, at, depth+1)
		}
	case yaml.MappingNode:
		first := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			at := join(path, key.Value)
			if line, twice := first[key.Value]; twice {
				l.add(Problem{Path: at, Text: fmt.Sprintf("given twice, first on line %d; keep one of them", line), Line: key.Line})
				continue
			}
			l.key(key.Value, at, key.Line)
			first[key.Value] = key.Line
			l.lines[at] = key.Line
			l.node(value, at, depth+1)
		}
	}
}

func (l *layout) toml(b []byte) {
	if line := tooDeep(b); line > 0 {
		l.add(Problem{Text: "nested too deeply", Line: line})
		return
	}
	var tree map[string]any
	if err := toml.Unmarshal(b, &tree); err != nil {
		p := Problem{Text: "not TOML: " + strings.TrimPrefix(err.Error(), "toml: ")}
		if at, ok := errors.AsType[*toml.DecodeError](err); ok {
			p.Line, _ = at.Position()
		}
		l.add(p)
		return
	}
	if len(tree) == 0 {
		l.add(Problem{Text: "the file holds comments only; it needs at least one setting, for example log = {level = \"info\"}"})
	}
	l.tree(tree, "", 0)
	for key := range tree {
		l.lines[key] = 0 // it is there, nobody knows where
	}
}

// tree judges the keys of a decoded file.
func (l *layout) tree(v any, path string, depth int) {
	if depth > maxDepth {
		l.add(Problem{Path: path, Text: "nested too deeply"})
		return
	}
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			at := join(path, key)
			l.key(key, at, 0)
			l.tree(v[key], at, depth+1)
		}
	case []any:
		for i, item := range v {
			l.tree(item, fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
	}
}

// tooDeep returns the line on which brackets or dotted keys nest beyond
// maxDepth, 0 when none do. The TOML decoder recurses without a limit, and a
// stack that overflows cannot be recovered from. Brackets and dots inside
// strings count too; no honest file comes near the limit.
func tooDeep(b []byte) int {
	line, depth, dots := 1, 0, 0
	for _, c := range b {
		switch c {
		case '[', '{':
			depth, dots = depth+1, 0
		case ']', '}':
			depth = max(depth-1, 0)
		case '.':
			dots++
		case '=', ',':
			dots = 0
		case '\n':
			line, dots = line+1, 0
		}
		if depth > maxDepth || dots > maxDepth {
			return line
		}
	}
	return 0
}
