package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// A bom is a bill of materials in CycloneDX 1.6, as far as we use it.
type bom struct {
	Format      string      `json:"bomFormat"`
	SpecVersion string      `json:"specVersion"`
	Version     int         `json:"version"`
	Metadata    metadata    `json:"metadata"`
	Components  []component `json:"components"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type     string          `json:"type"`
	Ref      string          `json:"bom-ref"`
	Name     string          `json:"name"`
	Version  string          `json:"version"`
	PURL     string          `json:"purl,omitempty"`
	Hashes   []hash          `json:"hashes,omitempty"`
	Licenses []licenseChoice `json:"licenses,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type licenseChoice struct {
	License licenseID `json:"license"`
}

type licenseID struct {
	ID string `json:"id"`
}

// describe lists what a program was built from, as the Go toolchain noted it in
// the program itself.
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
	b := bom{
		Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Metadata: metadata{component{
			Type: "application", Ref: name, Name: name, Version: version,
			Hashes:   []hash{{"SHA-256", hex.EncodeToString(sum[:])}},
			Licenses: licensed("Apache-2.0"),
		}},
		Components: []component{{
			Type: "library", Ref: "std", Name: "std", Version: strings.TrimPrefix(info.GoVersion, "go"),
			PURL: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go"), Licenses: licensed("BSD-3-Clause"),
		}},
	}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		m, ok := known[d.Path]
		if !ok || m.version != d.Version {
			return nil, fmt.Errorf("%s is linked from %s %s, whose license was not read", file, d.Path, d.Version)
		}
		c := component{
			Type: "library", Ref: d.Path, Name: d.Path, Version: d.Version,
			PURL: "pkg:golang/" + d.Path + "@" + d.Version, Licenses: licensed(m.licenses...),
		}
		b.Components = append(b.Components, c)
	}
	out, err := json.MarshalIndent(b, "", "  ")
	return append(out, '\n'), err
}

func licensed(ids ...string) (all []licenseChoice) {
	for _, id := range ids {
		all = append(all, licenseChoice{licenseID{id}})
	}
	return all
}
