package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/CycloneDX/cyclonedx-go"
)

func TestTheListOfLicensesIsWhatIsLinked(t *testing.T) {
	modules, err := linked(t.Context(), filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	want, err := licensePage(modules)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join("..", "..", licensesPage))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not current: go run ./hack/release --licenses writes it", licensesPage)
	}
	// The same modules as the goldens of the dependencies.
	for _, name := range programs {
		deps, err := os.ReadFile(filepath.Join("..", "..", "cmd", name, "deps.txt"))
		if err != nil {
			t.Fatal(err)
		}
		for path := range strings.FieldsSeq(string(deps)) {
			if !slices.ContainsFunc(modules, func(m module) bool { return m.path == path && slices.Contains(m.programs, name) }) {
				t.Errorf("%s is linked from %s, which is not listed", name, path)
			}
		}
	}
}

func TestALicenseThatIsNotPermittedIsAnError(t *testing.T) {
	for _, m := range []module{
		{path: "example.com/copyleft", licenses: []string{"GPL"}},
		{path: "example.com/both", licenses: []string{"AGPL", "MIT"}},
		{path: "example.com/none"},
	} {
		if _, err := licensePage([]module{m}); err == nil || !strings.Contains(err.Error(), m.path) {
			t.Errorf("%s: %v", m.path, err)
		}
	}
	for says, want := range map[string]string{
		"Licensed under the Apache License, Version 2.0 (the \"License\"); you may not use this file except in compliance with the License.":                                                                                                              "Apache-2.0",
		"This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version.": "GPL-3.0-or-later",
		"All rights reserved.": "",
	} {
		if got := strings.Join(classify([]byte(says)), " "); got != want {
			t.Errorf("%q is %q, want %q", says, got, want)
		}
	}
}

func TestTheBillOfMaterialsNamesEveryModuleOfAProgram(t *testing.T) {
	root := filepath.Join("..", "..")
	file := filepath.Join(t.TempDir(), "belfry-controller")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags=grpcnotrace", "-ldflags=-s -w -buildid=", "-o", file, "./cmd/controller")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	modules, err := linked(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	text, err := describe(file, "belfry-controller", "v1.2.3", modules)
	if err != nil {
		t.Fatal(err)
	}
	var b cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(text), cyclonedx.BOMFileFormatJSON).Decode(&b); err != nil {
		t.Fatal(err)
	}
	if b.SpecVersion != cyclonedx.SpecVersion1_6 || b.Metadata.Component.Version != "v1.2.3" || len(*b.Metadata.Component.Hashes) != 1 {
		t.Errorf("%s", text)
	}
	deps, err := os.ReadFile(filepath.Join(root, "cmd", "controller", "deps.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range *b.Components {
		names = append(names, c.Name)
		if c.Version == "" || c.PackageURL == "" || len(*c.Licenses) == 0 {
			t.Errorf("incomplete: %+v", c)
		}
	}
	for path := range strings.FieldsSeq(string(deps)) {
		if !slices.Contains(names, path) {
			t.Errorf("%s is missing", path)
		}
	}
	if !slices.Contains(names, "std") {
		t.Error("the standard library is missing")
	}
	less := slices.DeleteFunc(slices.Clone(modules), func(m module) bool { return m.path == strings.Fields(string(deps))[0] })
	if _, err := describe(file, "belfry-controller", "v1.2.3", less); err == nil {
		t.Error("a module whose license is not known goes unnoticed")
	}
}

func TestOnlyATagThatIsTheVersionIsReleased(t *testing.T) {
	for _, c := range []struct {
		version, tag string
		ok           bool
	}{
		{"v1.2.3", "v1.2.3", true},
		{"v1.2.3-rc.1", "v1.2.3-rc.1", true},
		{"v1.2.3", "", false},
		{"v1.2.3", "v1.2.2", false},
		{"v1.2.3", "v1.2.3-dirty", false},
		{"v1.2.3-dev", "v1.2.3-dev", false},
	} {
		if err := releasable(c.version, c.tag); (err == nil) != c.ok {
			t.Errorf("VERSION %s, tag %q: %v", c.version, c.tag, err)
		}
	}
}

func TestChecksumsAreThoseOfSha256sum(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"b": "two", "a": "one"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sums, err := checksums(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sha256sum", "--check", "--strict")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(sums)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "a: OK\nb: OK\n" {
		t.Errorf("%v: %s", err, out)
	}
}
