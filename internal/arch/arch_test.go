package arch

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Run with -count=1: a cached pass does not see a new import.
var rewrite = flag.Bool("rewrite", false, "write the golden dependency lists instead of comparing")

const module = "github.com/belfrylb/belfry"

type goPackage struct {
	ImportPath               string
	Dir                      string
	Name                     string
	Doc                      string
	Imports                  []string
	Standard                 bool
	GoFiles                  []string
	CgoFiles, SFiles, CFiles []string
	Module                   *struct{ Path string }
}

// goList runs go list, as if the tree had the files of an overlay besides.
func goList(t *testing.T, o overlay, args ...string) []goPackage {
	t.Helper()
	args = append([]string{"list", "-overlay=" + o.file(t), "-json=ImportPath,Dir,Name,Doc,Imports,Standard,GoFiles,CgoFiles,SFiles,CFiles,Module"}, args...)
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// A rule says that only some packages may import a path.
type rule struct {
	path    string
	only    []string
	because string
}

var rules = []rule{
	{
		"github.com/osrg/gobgp/",
		[]string{"internal/bgp/gobgp"},
		"one package wraps the BGP server; everything else speaks of routes and sessions",
	},
	{
		"github.com/hashicorp/memberlist",
		[]string{"internal/election/membership"},
		"membership is one edge; the election is pure",
	},
	{
		"github.com/mdlayher/packet",
		[]string{"internal/layer2/link", "hack/"},
		"raw sockets live in one place",
	},
	{
		"github.com/vishvananda/netlink",
		[]string{"internal/layer2/link", "hack/"},
		"interfaces are watched in one place",
	},
	{
		"k8s.io/client-go",
		[]string{"internal/kube", "internal/controller", "internal/cli", "cmd/", "hack/", "api/"},
		"only the Kubernetes edge knows there is an API server",
	},
	{
		"k8s.io/",
		[]string{"internal/kube", "internal/controller", "internal/config", "internal/speakerstatus", "internal/objects", "internal/world", "internal/migrate", "internal/cli", "cmd/", "hack/", "api/"},
		"the core speaks of our nouns, not of API objects",
	},
	{
		module + "/internal/sim", nil,
		"the simulation is for tests",
	},
	{
		module + "/internal/transcript", nil,
		"transcripts are for tests",
	},
	{
		module + "/internal/lb/lbtest", nil,
		"nouns to begin a test with are for tests",
	},
	{
		module + "/internal/kube/apitest", nil,
		"the API server in memory is for tests",
	},
	{
		module + "/internal/bgp/strict", nil,
		"the strictest router is for tests",
	},
	{
		module + "/hack/",
		[]string{"hack/"},
		"the lab is no part of the product",
	},
	{
		module + "/cmd/", nil,
		"arrows start at cmd",
	},
	{
		module + "/internal/controller",
		[]string{"cmd/controller"},
		"a loop is wired by its binary alone",
	},
	{
		module + "/internal/cli",
		[]string{"cmd/kubectl-belfry"},
		"the plugin is no part of what runs in the cluster",
	},
	{
		module + "/internal/world",
		[]string{"internal/cli"},
		"the loops decide as things happen; only who looks from outside joins all objects",
	},
	{
		module + "/internal/speaker",
		[]string{"cmd/speaker"},
		"a loop is wired by its binary alone",
	},
}

func TestArrowsPointOneWay(t *testing.T) {
	for _, p := range goList(t, nil, "./...") {
		rel := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range p.Imports {
			for _, r := range rules {
				if matches(imp, r.path) && !permitted(rel, r) {
					t.Errorf("%s imports %s: %s (only %v may)", rel, imp, r.because, r.only)
				}
			}
		}
	}
}

func TestEachPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range goList(t, nil, "./...") {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "types", "manager"}, p.Name) {
			t.Errorf("%s: %q names nothing; use the noun that its doc sentence is about", p.ImportPath, p.Name)
		}
	}
}

// A new dependency of a binary is a visible change: run with -rewrite and
// defend the difference in review.
func TestBinariesAreMadeOfWhatDepsSays(t *testing.T) {
	for _, binary := range []string{"controller", "speaker", "kubectl-belfry"} {
		var modules []string
		for _, p := range goList(t, nil, "-deps", "./cmd/"+binary) {
			if p.Module != nil && p.Module.Path != module {
				modules = append(modules, p.Module.Path)
			}
		}
		slices.Sort(modules)
		got := strings.Join(slices.Compact(modules), "\n") + "\n"
		golden := filepath.Join("..", "..", "cmd", binary, "deps.txt")
		if *rewrite {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("cmd/%s is made of other modules than cmd/%s/deps.txt says (go test ./internal/arch -rewrite writes it):\ngot:\n%swant:\n%s",
				binary, binary, got, want)
		}
	}
}

// matches reports whether an import is path itself or below it. A path that
// ends in a slash matches by prefix alone.
func matches(imp, path string) bool {
	if strings.HasSuffix(path, "/") {
		return strings.HasPrefix(imp, path)
	}
	return imp == path || strings.HasPrefix(imp, path+"/") && strings.Contains(path, ".")
}

func permitted(importer string, r rule) bool {
	if rest, ok := strings.CutPrefix(r.path, module+"/"); ok && (importer == rest || strings.HasPrefix(importer, rest)) {
		return true
	}
	for _, o := range r.only {
		if importer == o || strings.HasPrefix(importer, strings.TrimSuffix(o, "/")+"/") {
			return true
		}
	}
	return false
}
