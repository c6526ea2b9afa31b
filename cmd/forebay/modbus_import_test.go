package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/edge"
)

func TestModbusImport(t *testing.T) {
	for _, test := range []struct{ name, csv, want string }{
		{"all kinds", "\ufeffname, register,address,type,scale,writable,interval,engineering_unit,on_change\nvoltage L1,input,0,float32,,,10s,V,true\nmode,holding,0x10,,0.1,true,,\"no\",\n", ""},
		{"empty", "", "is empty: the first line names the columns"},
		{"no lines", "name,register\n", "there is no line below"},
		{"unknown columns", "name,regster,name\n", `line 1: column "regster" is no key of a tag`},
		{"not a number", "name,register,address\na,holdin,1\n\nb,holding,x7\nc,holding,x8\n", "line 4: cannot be understood"},
		{"all that is wrong", "name,register,address\na,holdin,1\n\nb,holding,x7\nc,holding,x8\n", "line 2: register: "},
		{"not what a tag can be", "name,register,address,type\na,holding,1,float33\nb,holdin,70000,\na,holding,2,\n", "line 2: type: "},
		{"several lines at once", "name,register,address,type\na,holding,1,float33\nb,holdin,70000,\na,holding,2,\n", "line 4: name: "},
		{"too few fields", "name,register\na\n", "wrong number of fields"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := readTags(strings.NewReader(test.csv), ',')
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v; want %q\n%s", err, test.want, got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// What is printed is what a configuration takes.
			file := filepath.Join(t.TempDir(), "forebay.yaml")
			text := "modbus:\n  links:\n    - name: line\n      tcp: device\n      units:\n        - name: unit\n          unit: 1\n          " + strings.ReplaceAll(got, "\n", "\n          ")
			if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := edge.Load(file)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			tags := cfg.Modbus.Links[0].Units[0].Tags
			if len(tags) != 2 || tags[0].Name != "voltage L1" || tags[0].Interval.Seconds() != 10 || !tags[0].OnChange ||
				*tags[1].Address != 16 || *tags[1].Scale != 0.1 || !tags[1].Writable || tags[1].EngineeringUnit != "no" {
				t.Errorf("%+v\n%s", tags, got)
			}
		})
	}
}

func FuzzModbusImport(f *testing.F) {
	f.Add("name,register,address\na,holding,1\n")
	f.Add("name;reference\n\"a\nb\";40001")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := readTags(strings.NewReader(text), ','); err == nil && !strings.HasPrefix(got, "tags:\n") {
			t.Errorf("%q", got)
		}
	})
}
