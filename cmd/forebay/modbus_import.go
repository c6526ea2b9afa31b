package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/cobra"

	"forebay/modbus"
)

// Limits of a list that is imported.
const (
	maxImport     = 1 << 20 // bytes
	maxImportTags = 5000
)

func newModbusImport() *cobra.Command {
	separator := ""
	cmd := &cobra.Command{
		Use:   "import FILE.csv",
		Short: "make a tag list of a table",
		Long: `Read a table whose first line names its columns, check it, and print it as the
tags of a unit in YAML, to be pasted into a configuration. The columns have the
names of the keys of a tag (name, register and address or reference, type, order,
scale, engineering_unit and so on, see forebay.yaml(5)); an empty field leaves the
key out. Every line that is wrong is told with its number, and then nothing is
printed. - reads standard input.`,
		Example: `  forebay modbus import meter.csv
  forebay modbus import --separator ';' meter.csv >tags.yaml`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len([]rune(separator)) != 1 {
				return usage(cmd, "--separator: %q is not one character: write ; or ,", separator)
			}
			return importCSV(cmd, args[0], []rune(separator)[0])
		},
	}
	cmd.Flags().StringVar(&separator, "separator", ",", "the `CHARACTER` between two fields")
	return cmd
}

func importCSV(cmd *cobra.Command, file string, separator rune) error {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return failed(cmd, err)
		}
		defer f.Close() // it is only read
		in = f
	}
	list, err := readTags(io.LimitReader(in, maxImport), separator)
	if err != nil {
		return failed(cmd, fmt.Errorf("%s: %w", file, err))
	}
	_, err = io.WriteString(cmd.OutOrStdout(), list)
	return err
}

// readTags makes the tags of a table, in YAML. The error has all problems, a line
// each.
func readTags(in io.Reader, separator rune) (string, error) {
	r := csv.NewReader(in)
	r.Comma, r.TrimLeadingSpace = separator, true
	columns, err := r.Read()
	if errors.Is(err, io.EOF) {
		return "", errors.New("is empty: the first line names the columns, for example name,register,address,type")
	}
	if err != nil {
		return "", err
	}
	if len(columns) > 0 {
		columns[0] = strings.TrimPrefix(columns[0], "\ufeff")
	}
	problems := checkColumns(columns)
	if len(problems) > 0 {
		return "", errors.New(strings.Join(problems, "\n"))
	}
	var b strings.Builder
	b.WriteString("tags:\n")
	var tags []modbus.TagConfig
	var lines []int
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		line, _ := r.FieldPos(0)
		if len(tags)+len(problems) == maxImportTags {
			return "", fmt.Errorf("line %d: more than %d tags are more than a unit should have: split the table", line, maxImportTags)
		}
		tag, text, err := tagOf(columns, fields)
		if err != nil {
			problems = append(problems, fmt.Sprintf("line %d: %v", line, err))
			continue
		}
		b.WriteString("  - {" + text + "}\n")
		tags, lines = append(tags, tag), append(lines, line)
	}
	switch {
	case len(tags) > 0:
		problems = append(problems, tagProblems(tags, lines)...)
	case len(problems) == 0:
		problems = []string{"there is no line below that with the names of the columns"}
	}
	if len(problems) > 0 {
		return "", errors.New(strings.Join(problems, "\n"))
	}
	return b.String(), nil
}

// tagKeys are the keys of a tag that fit into a field, by their kinds.
func tagKeys() map[string]reflect.Type {
	keys := make(map[string]reflect.Type)
	tag := reflect.TypeFor[modbus.TagConfig]()
	for i := range tag.NumField() {
		f := tag.Field(i)
		if f.Type.Kind() != reflect.Map && f.Type.Kind() != reflect.Slice && f.Type.Kind() != reflect.Struct {
			keys[f.Tag.Get("mapstructure")] = f.Type
		}
	}
	return keys
}

func checkColumns(columns []string) (problems []string) {
	keys := tagKeys()
	for i, c := range columns {
		c = strings.TrimSpace(c)
		columns[i] = c
		switch {
		case keys[c] == nil:
			var known []string
			for k := range keys {
				known = append(known, k)
			}
			slices.Sort(known)
			problems = append(problems, fmt.Sprintf("line 1: column %q is no key of a tag: use %s", c, strings.Join(known, ", ")))
		case slices.Index(columns, c) < i:
			problems = append(problems, fmt.Sprintf("line 1: column %q is there twice: leave one out", c))
		}
	}
	return problems
}

// tagOf makes a tag of a line, and its YAML.
func tagOf(columns, fields []string) (tag modbus.TagConfig, text string, err error) {
	values := make(map[string]any)
	var pairs []string
	keys := tagKeys()
	for i, field := range fields {
		if field = strings.TrimSpace(field); field == "" {
			continue
		}
		values[columns[i]] = field
		pairs = append(pairs, columns[i]+": "+yamlText(field, keys[columns[i]]))
	}
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: &tag, WeaklyTypedInput: true, DecodeHook: mapstructure.StringToTimeDurationHookFunc(),
	})
	if err != nil {
		panic("BUG: no decoder: " + err.Error())
	}
	if err := decoder.Decode(values); err != nil {
		return tag, "", fmt.Errorf("cannot be understood: %s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return tag, strings.Join(pairs, ", "), nil
}

var yamlPlain = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]*$`)

// yamlText writes a field as YAML that is read as the same text, or as what it is
// where the key is no text.
func yamlText(field string, kind reflect.Type) string {
	words := []string{"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
	if kind.Kind() != reflect.String && kind.String() != "time.Duration" || yamlPlain.MatchString(field) && !slices.Contains(words, strings.ToLower(field)) {
		return field
	}
	return strconv.Quote(field)
}

// tagProblems says what is wrong with tags, each at its line.
func tagProblems(tags []modbus.TagConfig, lines []int) (problems []string) {
	cfg := modbus.Config{Links: []modbus.LinkConfig{{Name: "link", TCP: "device", Units: []modbus.UnitConfig{{Name: "unit", Unit: new(1), Tags: tags}}}}}
	cfg.SetDefaults()
	cfg.Validate(func(path, problem string) {
		line, k, key := 0, 0, path
		if rest, ok := strings.CutPrefix(path, "links[0].units[0].tags["); ok {
			if _, err := fmt.Sscanf(rest, "%d]", &k); err == nil && k < len(lines) {
				line, key = lines[k], rest[strings.IndexByte(rest, ']')+1:]
			}
		}
		problems = append(problems, fmt.Sprintf("line %d: %s: %s", line, strings.TrimPrefix(key, "."), problem))
	})
	return problems
}
