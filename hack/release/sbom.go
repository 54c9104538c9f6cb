package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
)

// describe lists what a program was built from, as the Go toolchain noted it in
// the program itself: a bill of materials in CycloneDX 1.6.
func describe(file, name, version string, modules []module) ([]byte, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return nil, err
	}
	code, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	known := map[string]module{}
	for _, m := range modules {
		known[m.path] = m
	}
	sum := sha256.Sum256(code)
	toolchain := strings.TrimPrefix(info.GoVersion, "go")
	components := []cyclonedx.Component{component("std", toolchain, "BSD-3-Clause")}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		m, ok := known[d.Path]
		if !ok || m.version != d.Version {
			return nil, fmt.Errorf("%s is linked from %s %s, whose license was not read", file, d.Path, d.Version)
		}
		components = append(components, component(d.Path, d.Version, m.licenses...))
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{Component: &cyclonedx.Component{
		Type: cyclonedx.ComponentTypeApplication, BOMRef: name, Name: name, Version: version,
		Hashes:   &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
		Licenses: licensed("Apache-2.0"),
	}}
	bom.Components = &components
	var out bytes.Buffer
	err = cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cyclonedx.SpecVersion1_6)
	return out.Bytes(), err
}

// component is a module of Go's, or the standard library.
func component(path, version string, licenses ...string) cyclonedx.Component {
	return cyclonedx.Component{
		Type: cyclonedx.ComponentTypeLibrary, BOMRef: path, Name: path, Version: version,
		PackageURL: "pkg:golang/" + path + "@" + version, Licenses: licensed(licenses...),
	}
}

func licensed(ids ...string) *cyclonedx.Licenses {
	var all cyclonedx.Licenses
	for _, id := range ids {
		all = append(all, cyclonedx.LicenseChoice{License: &cyclonedx.License{ID: id}})
	}
	return &all
}
