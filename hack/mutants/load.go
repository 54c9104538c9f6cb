package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A subject is a package whose tests are to be judged.
type subject struct {
	path, dir string
	module    string
	fset      *token.FileSet
	files     []*source
	pkg       *types.Package
	info      *types.Info
	imports   types.Importer
	mutants   []mutant
}

// A source is one of its files, tests left aside.
type source struct {
	name string // the full path
	text []byte
	tree *ast.File
}

// name is the package's path within the module.
func (s *subject) name() string { return strings.TrimPrefix(s.path, s.module+"/") }

type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
	DepOnly                 bool
	Module                  *struct{ Path string }
}

// load reads packages, checks their types, and finds their mutants.
func load(ctx context.Context, patterns []string) ([]*subject, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,DepOnly,Module"}, slices.Concat(patterns, supportNeeds)...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	exports := map[string]string{}
	var roots []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly && !slices.Contains(supportNeeds, p.ImportPath) {
			roots = append(roots, p)
		}
	}
	var subjects []*subject
	for _, r := range roots {
		s := &subject{path: r.ImportPath, dir: r.Dir, fset: token.NewFileSet()}
		if r.Module != nil {
			s.module = r.Module.Path
		}
		s.imports = importer.ForCompiler(s.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
		for _, name := range r.GoFiles {
			full := filepath.Join(r.Dir, name)
			text, err := os.ReadFile(full)
			if err != nil {
				return nil, err
			}
			tree, err := parser.ParseFile(s.fset, full, text, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			s.files = append(s.files, &source{full, text, tree})
		}
		if err := s.check(); err != nil {
			return nil, err
		}
		s.find()
		if err := s.sift(); err != nil {
			return nil, err
		}
		subjects = append(subjects, s)
	}
	return subjects, nil
}

// check finds out the types of the package as it is.
func (s *subject) check() error {
	s.info = &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	trees := make([]*ast.File, len(s.files))
	for i, f := range s.files {
		trees[i] = f.tree
	}
	pkg, err := (&types.Config{Importer: s.imports}).Check(s.path, s.fset, trees, s.info)
	s.pkg = pkg
	return err
}

// sift leaves out the mutants that do not compile: what a function returns last
// cannot be left away, for one.
func (s *subject) sift() error {
	for len(s.mutants) > 0 {
		bad, err := s.misfits()
		if err != nil {
			return err
		}
		if len(bad) == 0 {
			return nil
		}
		kept := s.mutants[:0]
		for n, m := range s.mutants {
			if !bad[n] {
				kept = append(kept, m)
			}
		}
		s.mutants = kept
	}
	return nil
}

// misfits finds the innermost mutants round every error of the woven package.
func (s *subject) misfits() (map[int]bool, error) {
	fset := token.NewFileSet()
	var trees []*ast.File
	add := func(name string, text []byte) error {
		tree, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
		trees = append(trees, tree)
		return err
	}
	for i, f := range s.files {
		if err := add(f.name, s.weave(i)); err != nil {
			return nil, fmt.Errorf("woven %w", err)
		}
	}
	if err := add("support.go", s.support()); err != nil {
		return nil, err
	}
	bad := map[int]bool{}
	var stray error
	config := types.Config{Importer: s.imports, Error: func(err error) {
		te, ok := err.(types.Error)
		if !ok {
			stray = err
			return
		}
		at := fset.Position(te.Pos)
		if n, found := s.on(at.Filename, at.Line); found {
			bad[n] = true
		} else {
			stray = err
		}
	}}
	if _, err := config.Check(s.path, fset, trees, nil); err != nil && len(bad) == 0 {
		return nil, fmt.Errorf("the woven package does not compile: %w", errors.Join(err, stray))
	}
	return bad, nil
}

// on finds the last mutant that ends on a line or before; weaving moves no line.
// An error is at the mutant, or at the end of the function that lacks it.
func (s *subject) on(file string, line int) (int, bool) {
	best, found := 0, false
	for n, m := range s.mutants {
		if s.files[m.file].name != file || s.fset.Position(m.from).Line > line {
			continue
		}
		if !found || s.fset.Position(m.to).Line >= s.fset.Position(s.mutants[best].to).Line {
			best, found = n, true
		}
	}
	return best, found
}
