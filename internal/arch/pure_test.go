package arch

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// standard are the packages of the standard library that pure packages import.
// They decide nothing by themselves: what of them asks the world is in asking.
var standard = []string{
	"bytes", "cmp", "container/heap", "container/list", "crypto/sha1", "crypto/sha256", "crypto/subtle", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt", "hash/fnv", "maps", "math",
	"math/bits", "net/netip", "path", "reflect", "regexp", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8", "unique",
}

// vocabulary are the packages whose types some pure packages may name. What they
// import themselves, such as net/http, comes with the types.
var vocabulary = []string{module + "/api/v1beta1", "k8s.io/apimachinery/pkg/apis/meta/v1"}

// cluster are the packages besides whose types those may name that read the objects of
// Kubernetes itself.
var cluster = []string{"k8s.io/api/core/v1", "k8s.io/api/discovery/v1", "k8s.io/apimachinery/pkg/labels", "k8s.io/apimachinery/pkg/types", "k8s.io/apimachinery/pkg/util/resourceversion"}

// asking are the functions and variables of permitted packages that depend on
// more than their arguments: on a clock, on the environment, on standard input,
// or that act on the world.
var asking = map[string][]string{
	"time": {
		"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker",
		"Local", "LoadLocation", "Unix", "UnixMilli", "UnixMicro", // in the zone of the environment
	},
	"fmt":                                  {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
	"k8s.io/apimachinery/pkg/apis/meta/v1": {"Now", "NowMicro", "Unix"},
}

// asked are methods that do so, when they have no arguments.
var asked = []string{"Local"}

// An overlay is files that the tree does not have, by path.
type overlay map[string]string

// file writes the overlay down as the go command wants it.
func (o overlay) file(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for name, text := range o {
		replace[name] = filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(replace[name], []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, out, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// A breach is what a pure package does that it must not.
type breach struct{ room, what string }

// breaches looks at every pure package among those listed, with an overlay's text
// for the files that it has.
func breaches(t *testing.T, rows map[string]kind, list []goPackage, o overlay) []breach {
	t.Helper()
	packages := map[string]goPackage{}
	for _, p := range list {
		packages[p.ImportPath] = p
	}
	var out []breach
	for rel, k := range rows {
		if !k.pure() {
			continue
		}
		p := packages[module+"/"+rel]
		for _, what := range slices.Concat(imports(packages, rows, rel), code(t, p, o)) {
			out = append(out, breach{rel, what})
		}
	}
	slices.SortFunc(out, func(a, b breach) int { return strings.Compare(a.room+a.what, b.room+b.what) })
	return out
}

// imports names each package that a room reaches, by itself or through other
// packages, and must not.
func imports(packages map[string]goPackage, rows map[string]kind, room string) (out []string) {
	seen := map[string]bool{}
	var follow func(from, way string)
	follow = func(from, way string) {
		for _, imp := range packages[from].Imports {
			if seen[imp] {
				continue
			}
			seen[imp] = true
			rel, ours := strings.CutPrefix(imp, module+"/")
			switch {
			case slices.Contains(standard, imp):
			case slices.Contains(vocabulary, imp) && (rows[room] == namesAPI || rows[room] == namesCluster):
			case slices.Contains(cluster, imp) && rows[room] == namesCluster:
			case ours && rows[rel].pure():
				follow(imp, way+" -> "+rel)
			default:
				out = append(out, "imports "+imp+" ("+way+")")
			}
		}
	}
	follow(module+"/"+room, room)
	return out
}

// code names each place in a package that asks or acts.
func code(t *testing.T, p goPackage, o overlay) (out []string) {
	t.Helper()
	for _, name := range slices.Concat(p.CgoFiles, p.SFiles, p.CFiles) {
		out = append(out, name+" is no Go")
	}
	files := token.NewFileSet()
	for _, name := range p.GoFiles {
		name = filepath.Join(p.Dir, name)
		var source any
		if text, laid := o[name]; laid {
			source = text
		}
		f, err := parser.ParseFile(files, name, source, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range breachesOf(f) {
			out = append(out, fmt.Sprintf("%s at %s", what.what, files.Position(what.at)))
		}
	}
	return out
}

type place struct {
	what string
	at   token.Pos
}

func breachesOf(f *ast.File) (out []place) {
	add := func(n ast.Node, what string) { out = append(out, place{what, n.Pos()}) }
	imported := map[string]string{}
	for _, spec := range f.Imports {
		from := strings.Trim(spec.Path.Value, `"`)
		name := path.Base(from)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "." {
			add(spec, "imports "+from+" without a name")
		}
		imported[name] = from
	}
	for _, group := range f.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "//go:linkname") {
				add(c, "links to what it does not import")
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			add(n, "starts a goroutine")
		case *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
			add(n, "uses a channel")
		case *ast.UnaryExpr:
			if n.Op == token.ARROW {
				add(n, "uses a channel")
			}
		case *ast.CallExpr:
			switch fun := n.Fun.(type) {
			case *ast.Ident:
				if fun.Name == "print" || fun.Name == "println" {
					add(n, "prints")
				}
			case *ast.SelectorExpr:
				if len(n.Args) == 0 && slices.Contains(asked, fun.Sel.Name) {
					add(n, "calls "+fun.Sel.Name)
				}
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && slices.Contains(asking[imported[x.Name]], n.Sel.Name) {
				add(n, "uses "+imported[x.Name]+"."+n.Sel.Name)
			}
		}
		return true
	})
	return out
}

func TestPurePackagesDependOnTheirArgumentsAlone(t *testing.T) {
	rows := rooms(t)
	list := goList(t, nil, "./...")
	for _, b := range breaches(t, rows, list, nil) {
		t.Errorf("%s %s: it is a pure package; give it the fact as an argument", b.room, b.what)
	}
	// What no pure package needs is not permitted to any.
	used := map[string]bool{}
	for _, p := range list {
		if rows[strings.TrimPrefix(p.ImportPath, module+"/")].pure() {
			for _, imp := range p.Imports {
				used[imp] = true
			}
		}
	}
	for _, imp := range slices.Concat(standard, vocabulary, cluster) {
		if !used[imp] {
			t.Errorf("pure packages are permitted to import %s and do not", imp)
		}
	}
}

// Each of these files, added to any pure package, has to be found out.
func TestNoPurePackageCanAskTheWorld(t *testing.T) {
	rows := rooms(t)
	list := goList(t, nil, "./...")
	for _, c := range []struct{ name, text, found string }{
		{"clock", `import "time"; var _ = time.Now()`, "uses time.Now"},
		{"clock as a value", `import "time"; var _ = time.Since`, "uses time.Since"},
		{"clock by another name", `import clock "time"; var _ = clock.Now`, "uses time.Now"},
		{"clock without a name", `import . "time"; var _ = Now`, "imports time without a name"},
		{"timer", `import "time"; func _() { time.Sleep(1) }`, "uses time.Sleep"},
		{"time zone", `import "time"; func _(t time.Time) { t.Local() }`, "calls Local"},
		{"network", `import "net/http"; var _ = http.Get`, "imports net/http"},
		{"sockets", `import "net"; var _ = net.Dial`, "imports net "},
		{"environment", `import "os"; var _ = os.Getenv`, "imports os "},
		{"randomness", `import "math/rand/v2"; var _ = rand.Int`, "imports math/rand/v2 "},
		{"secret randomness", `import "crypto/rand"; var _ = rand.Text`, "imports crypto/rand "},
		{"hash with a random seed", `import "hash/maphash"; var _ = maphash.MakeSeed`, "imports hash/maphash "},
		{"log", `import "log/slog"; var _ = slog.Info`, "imports log/slog "},
		{"standard output", `import "fmt"; func _() { fmt.Println() }`, "uses fmt.Println"},
		{"standard error", `func _() { println() }`, "prints"},
		{"goroutine", `func _() { go func() {}() }`, "starts a goroutine"},
		{"channel", `func _(c <-chan int) { <-c }`, "uses a channel"},
		{"lock", `import "sync"; var _ sync.Mutex`, "imports sync "},
		{"API server", `import _ "k8s.io/client-go/kubernetes"`, "imports k8s.io/client-go/kubernetes "},
		{"impure package of ours", `import _ "` + module + `/internal/watchdog"`, "imports " + module + "/internal/watchdog "},
		{"linker", "import _ \"unsafe\"\n//go:linkname now time.now\nfunc now() (int64, int32, int64)", "links to what it does not import"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// As go list would list them with this file; asking it each time takes
			// seconds. The next test does ask it.
			o, with := overlay{}, slices.Clone(list)
			for i := range with {
				p := &with[i]
				if !rows[strings.TrimPrefix(p.ImportPath, module+"/")].pure() {
					continue
				}
				name := filepath.Join(p.Dir, "intruder.go")
				o[name] = "package " + p.Name + "\n" + c.text
				f, err := parser.ParseFile(token.NewFileSet(), name, o[name], parser.ImportsOnly)
				if err != nil {
					t.Fatal(err)
				}
				p.GoFiles, p.Imports = append(slices.Clone(p.GoFiles), "intruder.go"), slices.Clone(p.Imports)
				for _, spec := range f.Imports {
					p.Imports = append(p.Imports, strings.Trim(spec.Path.Value, `"`))
				}
			}
			found := map[string]bool{}
			for _, b := range breaches(t, rows, with, o) {
				found[b.room] = found[b.room] || strings.HasPrefix(b.what, c.found)
			}
			for rel, k := range rows {
				if k.pure() && !found[rel] {
					t.Errorf("nobody notices it in %s", rel)
				}
			}
		})
	}
}

// What one package does that it must not is seen in all that are made of it.
func TestImpurityIsSeenFromAfar(t *testing.T) {
	rows := rooms(t)
	dir, err := filepath.Abs(filepath.Join("..", "lb"))
	if err != nil {
		t.Fatal(err)
	}
	o := overlay{filepath.Join(dir, "intruder.go"): "package lb\nimport _ \"net/http\""}
	found := breaches(t, rows, goList(t, o, "./..."), o)
	for _, room := range []string{"internal/lb", "internal/core", "internal/speakerstatus", "internal/bgp/fsm"} {
		if !slices.ContainsFunc(found, func(b breach) bool { return b.room == room && strings.HasPrefix(b.what, "imports net/http ") }) {
			t.Errorf("it is not seen from %s; found: %v", room, found)
		}
	}
	if slices.ContainsFunc(found, func(b breach) bool { return b.room == "internal/bfd" }) {
		t.Error("internal/bfd is not made of internal/lb")
	}
}
