package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// A module is what a program is linked from.
type module struct {
	path, version string
	// licenses are SPDX identifiers; files are where they stand.
	licenses, files []string
	// programs are those that it is linked into.
	programs []string
}

// linked lists the modules that our programs are linked from, without our own,
// and reads their licenses in the module cache.
func linked(ctx context.Context, root string) ([]module, error) {
	all := map[string]*module{}
	type build struct{ name, system string }
	var builds []build
	for _, name := range programs {
		for _, system := range systems(name) {
			builds = append(builds, build{name, system})
		}
	}
	for _, b := range builds {
		name := b.name
		out, err := run(ctx, []string{"CGO_ENABLED=0", "GOOS=" + b.system, "GOFLAGS=-mod=readonly"}, "go", "-C", root, "list", "-deps", "-json=Module", "./cmd/"+name)
		if err != nil {
			return nil, err
		}
		for dec := json.NewDecoder(strings.NewReader(out)); ; {
			var p struct {
				Module *struct {
					Path, Version, Dir string
					Main               bool
				}
			}
			if err := dec.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
			m := p.Module
			if m == nil || m.Main {
				continue
			}
			if all[m.Path] == nil {
				one := &module{path: m.Path, version: m.Version}
				if one.licenses, one.files, err = licensesOf(m.Dir); err != nil {
					return nil, fmt.Errorf("%s: %w", m.Path, err)
				}
				all[m.Path] = one
			}
			if one := all[m.Path]; !slices.Contains(one.programs, name) {
				one.programs = append(one.programs, name)
			}
		}
	}
	var modules []module
	for _, m := range all {
		modules = append(modules, *m)
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.path, b.path) })
	return modules, nil
}

// licensesOf reads the license files at the top of a module.
func licensesOf(dir string) (licenses, files []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, nil, err
		}
		found := classify(text)
		if len(found) == 0 {
			return nil, nil, fmt.Errorf("%s is a license that is not known here", e.Name())
		}
		licenses = append(licenses, found...)
		files = append(files, e.Name())
	}
	slices.Sort(licenses)
	return slices.Compact(licenses), files, nil
}

// classify returns the SPDX identifiers of the licenses that a text contains.
func classify(text []byte) (licenses []string) {
	for _, m := range licensecheck.Scan(text).Match {
		licenses = append(licenses, m.ID)
	}
	slices.Sort(licenses)
	return slices.Compact(licenses)
}

// permitted are the licenses that may be linked into a program under
// Apache-2.0, and what each asks of whoever passes the program on.
var permitted = map[string]string{
	"Apache-2.0":   "pass on the license and the NOTICE file",
	"MIT":          "pass on the copyright notice and the license",
	"BSD-2-Clause": "pass on the copyright notice and the license",
	"BSD-3-Clause": "pass on the copyright notice and the license; do not advertise with the authors' names",
	"ISC":          "pass on the copyright notice and the license",
	"MPL-2.0":      "say where the source of these files can be had; changed files stay under it",
}

// licensePage is the page that lists all modules. It fails when one has no
// license, or one that is not permitted.
func licensePage(modules []module) (string, error) {
	var b strings.Builder
	b.WriteString(`# Licenses

Belfry is under the Apache License 2.0. Its programs are linked from the modules below, whose licenses permit that.
This page is written by ` + "`go run ./hack/release --licenses`" + `, and a test holds it to what is linked.

| license | modules | asks |
|---|---|---|
`)
	var errs []error
	count := map[string]int{}
	for _, m := range modules {
		if len(m.licenses) == 0 {
			errs = append(errs, fmt.Errorf("%s has no license", m.path))
		}
		for _, l := range m.licenses {
			count[l]++
			if permitted[l] == "" {
				errs = append(errs, fmt.Errorf("%s is under %s, which is not permitted", m.path, l))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	var names []string
	for l := range count {
		names = append(names, l)
	}
	slices.Sort(names)
	for _, l := range names {
		fmt.Fprintf(&b, "| %s | %d | %s |\n", l, count[l], permitted[l])
	}
	b.WriteString("\n| module | version | license | in |\n|---|---|---|---|\n")
	for _, m := range modules {
		in := strings.Join(m.programs, ", ")
		if len(m.programs) == len(programs) {
			in = "all"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", m.path, m.version, strings.Join(m.licenses, " and "), in)
	}
	return b.String(), nil
}
