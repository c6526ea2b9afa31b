package core_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every normative statement that a line of this package claims to obey is named by a test too.
func TestEveryStatementHasATest(t *testing.T) {
	number := regexp.MustCompile(`MQTT-\d+\.\d+(\.\d+)?-\d+`)
	cited, tested := map[string]string{}, map[string]bool{}
	collect := func(pattern string, note func(file, statement string)) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, statement := range number.FindAllString(string(b), -1) {
				note(file, statement)
			}
		}
	}
	collect("testdata/*.txt", func(_, statement string) { tested[statement] = true })
	collect("*.go", func(file, statement string) {
		if strings.HasSuffix(file, "_test.go") {
			tested[statement] = true
		} else {
			cited[statement] = file
		}
	})
	for _, statement := range slices.Sorted(maps.Keys(cited)) {
		if !tested[statement] {
			t.Errorf("%s is cited in %s and in no test", statement, cited[statement])
		}
	}
}
