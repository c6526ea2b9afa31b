package core_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every normative statement of 5.0 and 3.1.1 is cited where the code obeys it and in a transcript that shows it (those
// about the transport: in a test of package broker), or stands in the package comment with the reason why it asks
// nothing of the server. What is cited exists. A citation in code and transcripts is of 5.0 unless 3.1.1 stands before
// it: 3.1.1 [MQTT-3.3.5-2].
func TestStatements(t *testing.T) {
	list := statements(t)
	cited, shown, excused := map[string]string{}, map[string]string{}, map[string]string{}
	number := regexp.MustCompile(`(3\.1\.1 )?\[?"?MQTT-([0-9]+[.-][0-9.]*[0-9]-[0-9]+)`)
	collect := func(into map[string]string, pattern string, skip func(name string) bool) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			if skip(file) {
				continue
			}
			for _, m := range number.FindAllStringSubmatch(readText(t, file), -1) {
				into[edition(m[1])+m[2]] = file
			}
		}
	}
	isTest := func(name string) bool { return strings.HasSuffix(name, "_test.go") }
	for _, dir := range []string{".", "..", "../packet"} {
		collect(cited, dir+"/*.go", isTest)
	}
	collect(shown, "testdata/*.txt", func(string) bool { return false })
	collect(shown, "../*.go", func(name string) bool { return !isTest(name) })
	for s := range excuses(t) {
		excused[s] = "doc.go"
	}

	obeyed := 0
	for s, same := range list {
		if same == "" {
			same = s
		}
		switch {
		case excused[s] != "" && shown[s] != "":
			t.Errorf("%s asks nothing of a server, says doc.go, and %s shows it", s, shown[s])
		case excused[s] != "" || excused[same] != "":
		case cited[same] == "":
			t.Errorf("%s (%s) is cited nowhere in the code", s, same)
		case shown[same] == "":
			t.Errorf("%s (%s) is cited in %s, and shown by no transcript", s, same, cited[same])
		default:
			obeyed++
		}
	}
	for _, from := range []map[string]string{shown, excused} {
		for s, file := range from {
			if _, known := list[s]; !known {
				t.Errorf("%s cites %s, which does not exist", file, s)
			}
		}
	}
	for s, file := range cited {
		_, of5 := list[s]
		_, of311 := list[edition("3.1.1 ")+strings.TrimPrefix(s, edition(""))]
		if !of5 && !of311 { // the codec names the statement of the version spoken
			t.Errorf("%s cites %s, which does not exist", file, s)
		}
	}
	t.Logf("%d statements: %d obeyed and shown, %d ask nothing of a server", len(list), obeyed, len(list)-obeyed)
}

// edition is the beginning of a key for the mark that stands before a citation.
func edition(mark string) string {
	if mark == "" {
		return "5.0 "
	}
	return mark
}

// statements reads the list: what each is the same as, or empty.
func statements(t *testing.T) map[string]string {
	list := map[string]string{}
	version := ""
	for line := range strings.Lines(readText(t, "testdata/statements.list")) {
		switch line = strings.TrimSpace(line); {
		case line == "" || line[0] == '#':
		case line == "5.0" || line == "3.1.1":
			version = line + " "
		default:
			for _, word := range strings.Fields(line) {
				a, b, _ := strings.Cut(word, "=")
				if b != "" {
					b = "5.0 " + b
				}
				list[version+a] = b
			}
		}
	}
	return list
}

// excuses reads the section of the package comment about the statements that ask nothing of a server: numbers in
// lists, those of 3.1.1 behind "3.1.1:".
func excuses(t *testing.T) map[string]bool {
	_, section, ok := strings.Cut(readText(t, "doc.go"), "# Statements that ask nothing of us\n")
	if !ok {
		t.Fatal("doc.go has no section about the statements that do not apply")
	}
	number := regexp.MustCompile(`^[0-9]+[.-][0-9.]*[0-9]-[0-9]+$`)
	list := map[string]bool{}
	version := "5.0 "
	for _, word := range strings.Fields(section) {
		switch word = strings.Trim(word, ".,;()"); {
		case word == "5.0:":
			version = "5.0 "
		case word == "3.1.1:":
			version = "3.1.1 "
		case number.MatchString(word):
			list[version+word] = true
		}
	}
	return list
}

func readText(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
