package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
)

// A mutant is one small error.
type mutant struct {
	file     int
	function string
	// kind says in words what is done.
	kind string
	// from and to are the code that is replaced, by text that says what it amounts
	// to.
	from, to token.Pos
	instead  string
	weaving
}

// A weaving says how to change the code round a mutant so that it can be turned
// on: what to put before and after a node, and what to put in the place of
// something within. %d stands for the mutant's number. The zero weaving leaves it
// to the mutant before.
type weaving struct {
	node          ast.Node
	before, after string
	within        span
	replaced      string
}

type span struct{ from, to token.Pos }

// The kinds of mutants.
const (
	negated   = "negated condition"
	dropped   = "dropped operand"
	boundary  = "moved boundary"
	computed  = "changed arithmetic"
	constants = "changed constant"
	swapped   = "swapped boolean"
	removed   = "removed statement"
)

// find lists all mutants of a package, in the order of the code.
func (s *subject) find() {
	for i := range s.files {
		f := &finder{subject: s, file: i, done: map[ast.Node]bool{}}
		f.imported = map[string]string{s.path: ""}
		for _, spec := range s.files[i].tree.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			if spec.Name != nil {
				f.imported[path] = spec.Name.Name
			} else if p, err := s.imports.Import(path); err == nil {
				f.imported[path] = p.Name()
			}
		}
		for _, d := range s.files[i].tree.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Body != nil {
					f.function = functionName(d)
					f.walk(d.Body)
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				for _, spec := range d.Specs {
					v := spec.(*ast.ValueSpec)
					f.function = v.Names[0].Name
					for _, e := range v.Values {
						f.walk(e)
					}
				}
			}
		}
	}
}

func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return d.Name.Name
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	switch x := t.(type) {
	case *ast.IndexExpr:
		t = x.X
	case *ast.IndexListExpr:
		t = x.X
	}
	return fmt.Sprintf("%s.%s", t, d.Name.Name)
}

// A finder walks through a file.
type finder struct {
	*subject
	file     int
	function string
	// imported are the packages that the file can name, by path.
	imported map[string]string
	// done are nodes that have been seen to.
	done map[ast.Node]bool
}

func (f *finder) add(kind string, n ast.Node, instead string, w weaving) {
	f.mutants = append(f.mutants, mutant{f.file, f.function, kind, n.Pos(), n.End(), instead, w})
}

func (f *finder) text(n ast.Node) string {
	start := f.fset.Position(n.Pos()).Offset
	return string(f.files[f.file].text[start:f.fset.Position(n.End()).Offset])
}

func (f *finder) walk(n ast.Node) {
	ast.Inspect(n, func(n ast.Node) bool {
		if n == nil || f.done[n] {
			return false
		}
		switch n := n.(type) {
		case *ast.BlockStmt:
			f.statements(n.List)
		case *ast.CaseClause:
			f.statements(n.Body)
		case *ast.CommClause:
			f.statements(n.Body)
		case *ast.IfStmt:
			f.condition(n.Cond)
		case *ast.ForStmt:
			if n.Cond != nil {
				f.condition(n.Cond)
			}
		case *ast.SwitchStmt:
			if n.Tag == nil {
				for _, c := range n.Body.List {
					for _, e := range c.(*ast.CaseClause).List {
						f.condition(e)
					}
				}
			}
		case *ast.ReturnStmt:
			for _, e := range n.Results {
				f.condition(e)
			}
		case *ast.DeclStmt:
			if d, ok := n.Decl.(*ast.GenDecl); ok && d.Tok != token.VAR {
				return false
			}
		case *ast.CompositeLit:
			for _, e := range n.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					f.done[kv.Key] = true // an index, or the name of a field
				}
			}
		case ast.Expr:
			return f.expression(n)
		}
		return true
	})
}

// statements finds what can be left out of a list of statements.
func (f *finder) statements(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt:
			call, ok := s.X.(*ast.CallExpr)
			if ok && f.unseen(call) {
				continue
			}
		case *ast.DeferStmt:
			if f.unseen(s.Call) {
				continue
			}
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE || len(s.Lhs) == 1 && f.text(s.Lhs[0]) == "_" {
				continue
			}
		case *ast.ReturnStmt:
			if len(s.Results) > 0 {
				continue // the condition before it says the same
			}
		case *ast.SendStmt, *ast.IncDecStmt, *ast.GoStmt:
		case *ast.BranchStmt:
			if s.Tok == token.FALLTHROUGH || s.Tok == token.GOTO {
				continue
			}
		default:
			continue
		}
		f.add(removed, s, "", weaving{node: s, before: "if !mutantOn(%d) { ", after: " }"})
	}
}

// unseen reports whether leaving out a call is not to be noticed by tests that
// ask for behavior: log lines, and locks, which are for the race detector.
func (f *finder) unseen(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		name, ok := call.Fun.(*ast.Ident)
		return ok && name.Name == "panic"
	}
	t := f.info.TypeOf(sel.X)
	if t == nil {
		return false
	}
	switch strings.TrimPrefix(t.String(), "*") {
	case "log/slog.Logger", "sync.Mutex", "sync.RWMutex":
		return true
	}
	return false
}

// isBool reports whether an expression is a bool that is not known beforehand.
func (f *finder) isBool(e ast.Expr) bool {
	tv, ok := f.info.Types[e]
	if !ok || tv.Value != nil || tv.Type == nil || tv.IsType() {
		return false
	}
	b, ok := tv.Type.(*types.Basic)
	return ok && (b.Kind() == types.Bool || b.Kind() == types.UntypedBool)
}

// condition negates an expression, whatever its form is.
func (f *finder) condition(e ast.Expr) {
	e = ast.Unparen(e)
	if !f.isBool(e) || f.done[conditionOf{e}] {
		return
	}
	f.done[conditionOf{e}] = true
	instead := "!(" + f.text(e) + ")"
	if not, ok := e.(*ast.UnaryExpr); ok && not.Op == token.NOT {
		instead = f.text(not.X)
	}
	f.add(negated, e, instead, weaving{node: e, before: "((", after: ") != mutantOn(%d))"})
}

// A conditionOf marks that an expression is negated already.
type conditionOf struct{ ast.Expr }

var relations = map[token.Token][2]string{
	token.LSS: {"mutantLess", "<="}, token.LEQ: {"mutantAtMost", "<"},
	token.GTR: {"mutantMore", ">="}, token.GEQ: {"mutantAtLeast", ">"},
}

var operations = map[token.Token][2]string{
	token.ADD: {"mutantAdd", "-"}, token.SUB: {"mutantSub", "+"}, token.MUL: {"mutantMul", "+"},
	token.QUO: {"mutantQuo", "*"}, token.REM: {"mutantRem", "*"}, token.AND: {"mutantAnd", "|"}, token.OR: {"mutantOr", "&"},
}

// expression finds the mutants of one expression, and reports whether to look
// into it.
func (f *finder) expression(e ast.Expr) bool {
	tv := f.info.Types[e]
	if tv.IsType() {
		return false
	}
	if tv.Value != nil {
		f.constant(e, tv)
		return false
	}
	switch e := e.(type) {
	case *ast.FuncLit:
		f.walk(e.Body)
		return false
	case *ast.BinaryExpr:
		f.binary(e)
	case *ast.UnaryExpr:
		if e.Op == token.NOT {
			if !f.done[operandOf{e}] {
				f.condition(e)
			}
			f.done[conditionOf{ast.Unparen(e.X)}] = true
		}
	case *ast.CallExpr:
		return f.call(e)
	case *ast.SelectorExpr:
		f.done[e.Sel] = true
	}
	return true
}

// An operandOf marks an expression whose dropping says as much as negating it.
type operandOf struct{ ast.Expr }

func (f *finder) binary(e *ast.BinaryExpr) {
	if e.Op == token.LAND || e.Op == token.LOR {
		if !f.isBool(e) {
			return
		}
		if !f.done[operandOf{e}] {
			f.condition(e)
		}
		w := weaving{before: "(mutantOn(%d) || (", after: "))"}
		if e.Op == token.LOR {
			w.before = "(!mutantOn(%d) && ("
		}
		for _, operand := range []ast.Expr{e.X, e.Y} {
			rest := e.Y
			if operand == e.Y {
				rest = e.X
			}
			w.node = operand
			f.add(dropped, e, f.text(rest), w)
			f.done[operandOf{ast.Unparen(operand)}] = true
		}
		return
	}
	if !f.done[operandOf{e}] && f.isBool(e) {
		f.condition(e)
	}
	x, y := f.info.Types[e.X], f.info.Types[e.Y]
	basic := func(t types.Type) *types.Basic {
		if t == nil {
			return nil
		}
		b, _ := t.Underlying().(*types.Basic)
		return b
	}
	bx, by := basic(x.Type), basic(y.Type)
	if bx == nil || by == nil {
		return
	}
	if r, ok := relations[e.Op]; ok {
		f.add(boundary, e, f.text(e.X)+" "+r[1]+" "+f.text(e.Y), weaving{
			node: e, before: r[0] + "(%d, ", after: ")", within: span{e.OpPos, e.OpPos + token.Pos(len(e.Op.String()))}, replaced: ",",
		})
	}
	if o, ok := operations[e.Op]; ok && bx.Info()&types.IsNumeric != 0 && by.Info()&types.IsNumeric != 0 {
		if e.Op != token.ADD && e.Op != token.SUB && e.Op != token.MUL && e.Op != token.QUO && bx.Info()&types.IsInteger == 0 {
			return
		}
		f.add(computed, e, f.text(e.X)+" "+o[1]+" "+f.text(e.Y), weaving{
			node: e, before: o[0] + "(%d, ", after: ")", within: span{e.OpPos, e.OpPos + token.Pos(len(e.Op.String()))}, replaced: ",",
		})
	}
}

// call finds what can be wrong with a call besides its arguments.
func (f *finder) call(e *ast.CallExpr) bool {
	name, ok := e.Fun.(*ast.Ident)
	if !ok {
		return true
	}
	if _, builtin := f.info.Uses[name].(*types.Builtin); !builtin {
		return true
	}
	switch name.Name {
	case "make", "new":
		return false // a capacity is no behavior
	case "min", "max":
		if len(e.Args) == 2 {
			f.add(dropped, e, f.text(e.Args[0]), weaving{
				node: e, within: span{e.Pos(), e.Lparen + 1}, replaced: map[string]string{"min": "mutantMin", "max": "mutantMax"}[name.Name] + "(%d, ",
			})
			f.add(dropped, e, f.text(e.Args[1]), weaving{})
		}
	}
	f.done[name] = true
	return true
}

// constant changes a number or a boolean. What it is part of is no constant.
func (f *finder) constant(e ast.Expr, tv types.TypeAndValue) {
	switch tv.Value.Kind() {
	case constant.Bool:
		if id, ok := e.(*ast.Ident); ok && (id.Name == "true" || id.Name == "false") {
			f.add(swapped, e, map[string]string{"true": "false", "false": "true"}[id.Name], weaving{node: e, before: "(", after: " != mutantOn(%d))"})
		}
	case constant.Int, constant.Float:
		b, ok := tv.Type.Underlying().(*types.Basic)
		if !ok || b.Info()&types.IsUntyped != 0 {
			return // a count of bits
		}
		name, ok := f.typeName(tv.Type)
		if !ok {
			return
		}
		// Twice as long is an error that can be seen, one nanosecond more is none.
		helper, instead := "mutantNext", f.text(e)+" + 1"
		if tv.Type.String() == "time.Duration" {
			helper, instead = "mutantTwice", "2 * ("+f.text(e)+")"
			if constant.Sign(tv.Value) == 0 {
				instead = "1 * time.Second"
			}
		}
		f.add(constants, e, instead, weaving{node: e, before: helper + "[" + name + "](%d, ", after: ")"})
	}
}

// typeName is how the file names a type, if it can.
func (f *finder) typeName(t types.Type) (string, bool) {
	ok := true
	name := types.TypeString(t, func(p *types.Package) string {
		local, imported := f.imported[p.Path()]
		ok = ok && imported && local != "." && local != "_"
		return local
	})
	if named, is := t.(*types.Named); is && named.Obj().Pkg() != nil && named.Obj().Pkg() != f.pkg && !named.Obj().Exported() {
		return "", false
	}
	return name, ok
}

// describe shows a mutant as a person would make it.
func (m mutant) describe(s *subject) string {
	f := s.files[m.file]
	var out strings.Builder
	fmt.Fprintf(&out, "%s/%s:%d: %s in %s\n", s.name(), filepath.Base(f.name), s.fset.Position(m.from).Line, m.kind, m.function)
	was, is := m.lines(s)
	for _, l := range was {
		fmt.Fprintf(&out, "  -%s\n", l)
	}
	for _, l := range is {
		fmt.Fprintf(&out, "  +%s\n", l)
	}
	return out.String()
}

// lines are the lines of a mutant as they are, and as it would have them.
func (m mutant) lines(s *subject) (was, is []string) {
	text := s.files[m.file].text
	from, to := s.fset.Position(m.from).Offset, s.fset.Position(m.to).Offset
	start := bytes.LastIndexByte(text[:from], '\n') + 1
	end := to + bytes.IndexByte(append(text[to:len(text):len(text)], '\n'), '\n')
	is = strings.Split(string(text[start:from])+m.instead+string(text[to:end]), "\n")
	return strings.Split(string(text[start:end]), "\n"), slices.DeleteFunc(is, func(l string) bool { return strings.TrimSpace(l) == "" })
}
