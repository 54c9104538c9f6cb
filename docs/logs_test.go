package docs

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the parts of pages that are generated from the code")

// generated holds what stands between two marks of a page to what it should be.
func generated(t *testing.T, page, mark, want string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+mark+": generated -->\n", "<!-- end of "+mark+" -->\n"
	before, rest, begun := strings.Cut(string(b), begin)
	_, after, ended := strings.Cut(rest, end)
	if !begun || !ended {
		t.Fatalf("%s has no place for %s", page, mark)
	}
	current := before + begin + want + end + after
	switch {
	case current == string(b):
	case !*rewrite:
		t.Errorf("%s is not current: go test ./docs -run %s -rewrite; want\n%s", page, t.Name(), want)
	default:
		if err := os.WriteFile(page, []byte(current), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A logged is a call that writes a line: from where, and what its text and keys are.
type logged struct {
	level, message string
	keys           []string
}

// literal is the text of a string in the code; a part that is not written down is "...".
func literal(e ast.Expr) (text string, is bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil
	case *ast.BinaryExpr:
		left, is := literal(e.X)
		if right, isToo := literal(e.Y); is && isToo {
			return left + right, true
		}
		return left + "...", is
	}
	return "", false
}

// logs are the lines that the programs write at Info and above, and all keys.
func logs(t *testing.T) (lines []logged, keys map[string]bool) {
	t.Helper()
	keys = map[string]bool{}
	look := func(n ast.Node) bool {
		call, is := n.(*ast.CallExpr)
		if !is || len(call.Args) == 0 {
			return true
		}
		name, of := "", ""
		switch f := call.Fun.(type) {
		case *ast.SelectorExpr:
			name = f.Sel.Name
			switch x := f.X.(type) {
			case *ast.Ident:
				of = x.Name
			case *ast.SelectorExpr:
				of = x.Sel.Name
			}
		case *ast.Ident:
			name = f.Name
		}
		text, written := literal(call.Args[0])
		pairs := call.Args[1:]
		switch {
		case of == "slog" && slices.Contains([]string{"String", "Int", "Duration"}, name):
			keys[text] = true
			return true
		case strings.EqualFold(of, "log") && name == "With":
			pairs = call.Args
		case strings.EqualFold(of, "log") && slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, name) && written:
		case name == "tell" && of == "" && written && len(pairs) >= 2:
			name = "Warn"
		default:
			return true
		}
		l := logged{level: name, message: text}
		for i := 0; i < len(pairs); i += 2 {
			if key, is := literal(pairs[i]); is {
				l.keys = append(l.keys, key)
				keys[key] = true
			}
		}
		if name != "Debug" && name != "With" {
			lines = append(lines, l)
		}
		return true
	}
	for _, root := range []string{"../cmd", "../internal"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err == nil && !strings.Contains(path, "config/") {
				ast.Inspect(file, look)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return lines, keys
}

// The list of lines is what the code says, but for those about addresses, whose text
// is put together.
func TestTheLogPageIsCurrent(t *testing.T) {
	lines, _ := logs(t)
	if len(lines) < 50 {
		t.Errorf("only %d lines are found", len(lines))
	}
	rows := map[string]logged{}
	for _, l := range lines {
		if was, twice := rows[l.message]; twice {
			l.keys = slices.Compact(slices.Sorted(slices.Values(append(was.keys, l.keys...))))
			if was.level != l.level {
				l.level = was.level + ", " + l.level
			}
		}
		rows[l.message] = l
	}
	var table strings.Builder
	table.WriteString("| message | level | keys |\n|---|---|---|\n")
	for _, message := range slices.Sorted(maps.Keys(rows)) {
		l := rows[message]
		var keys []string
		for _, k := range l.keys {
			keys = append(keys, "`"+k+"`")
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", message, l.level, strings.Join(keys, ", "))
	}
	generated(t, "reference/logs.md", "lines", table.String())
}

func TestEveryKeyOfTheLogIsDescribedAndNoOther(t *testing.T) {
	_, keys := logs(t)
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9]+)` \\|").FindAllStringSubmatch(section(t, pages(t)["reference/logs.md"], "Keys"), -1) {
		rows = append(rows, m[1])
	}
	for _, always := range []string{"time", "level", "msg"} {
		keys[always] = true
	}
	for key := range keys {
		if !slices.Contains(rows, key) {
			t.Errorf("reference/logs.md does not describe the key %q", key)
		}
	}
	for _, row := range rows {
		if !keys[row] {
			t.Errorf("reference/logs.md describes the key %q, which no line has", row)
		}
	}
}

// What becomes of addresses is told by verbs; each has a row.
func TestEachLineAboutAddressesIsDescribed(t *testing.T) {
	verb := regexp.MustCompile(`(?m)(?:^\s+verb[A-Z]\w* *= "([a-z ]+)"|core\.\w+: "([a-z ]+)")`)
	verbs := 0
	body := section(t, pages(t)["reference/logs.md"], "Addresses")
	for _, file := range []string{"../internal/speaker/moves.go", "../internal/controller/given.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			for _, part := range strings.Split(line, ",") {
				for _, m := range verb.FindAllStringSubmatch(part, -1) {
					verbs++
					if name := "`address " + m[1] + m[2] + "`"; !strings.Contains(body, name) {
						t.Errorf("reference/logs.md does not tell what %s means", name)
					}
				}
			}
		}
	}
	if verbs != 12 {
		t.Errorf("%d verbs are found", verbs)
	}
}
