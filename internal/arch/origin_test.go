package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// origin is what a comment says of where a value is from.
var origin = regexp.MustCompile(`RFC [0-9]|docs/design/[a-z0-9-]+\.md`)

// unfounded names each constant of a file, and each variable of its package, that is a
// duration and whose comment, or that of its block, names neither an RFC nor a page.
func unfounded(f *ast.File) (out []string) {
	for _, decl := range f.Decls {
		block, ok := decl.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST && block.Tok != token.VAR {
			continue
		}
		for _, spec := range block.Specs {
			s := spec.(*ast.ValueSpec)
			if slices.ContainsFunc(s.Values, isDuration) && !origin.MatchString(block.Doc.Text()+s.Doc.Text()+s.Comment.Text()) {
				out = append(out, s.Names[0].Name)
			}
		}
	}
	return out
}

// isDuration reports whether a value is made of units of time.
func isDuration(value ast.Expr) (found bool) {
	ast.Inspect(value, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			x, ok := s.X.(*ast.Ident)
			found = found || ok && x.Name == "time" && slices.Contains([]string{"Microsecond", "Millisecond", "Second", "Minute", "Hour"}, s.Sel.Name)
		}
		return !found
	})
	return found
}

// A duration is a decision: it was measured or chosen, and a maintainer who
// wants to change it has to know which.
func TestDurationsSayWhereTheyAreFrom(t *testing.T) {
	rows := rooms(t)
	for _, p := range goList(t, nil, "./...") {
		k := rows[strings.TrimPrefix(p.ImportPath, module+"/")]
		if !k.pure() && k != "edge" && k != "loop" {
			continue
		}
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, constant := range unfounded(f) {
				t.Errorf("%s: the comment of %s names neither an RFC nor a page of docs/design that says why it is what it is", filepath.Join(p.Dir, name), constant)
			}
		}
	}
}

func TestADurationWithoutAnOriginIsFound(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "", `package p

import "time"

// a is as RFC 4271 says, section 10.
const a = 3 * time.Second

// docs/design/gossip.md has the reasons.
const (
	b = time.Minute
	c = 10 * time.Millisecond
)

const (
	d = time.Second
	// e is docs/design/hand-over.md's.
	e = time.Second
	f = 250 * time.Millisecond // short
	g = 7
)

var h = []time.Duration{0, time.Second}

func i() time.Duration { const j = time.Second; return j }
`, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := unfounded(f), []string{"d", "f", "h"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
