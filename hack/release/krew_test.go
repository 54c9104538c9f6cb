package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Krew downloads what a release has, finds in it what the manifest says, and makes of that
// a command of kubectl's.
func TestTheKrewManifestIsOfTheFilesOfARelease(t *testing.T) {
	t.Chdir("../..")
	dir := t.TempDir()
	for _, system := range systems(plugin) {
		for _, arch := range architectures {
			if err := os.WriteFile(filepath.Join(dir, fileName(plugin, system, arch)), []byte(system+arch), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := writeKrew(dir, "v1.2.3"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, krewFile))
	if err != nil {
		t.Fatal(err)
	}
	var p krewPlugin
	if err := yaml.UnmarshalStrict(text, &p); err != nil {
		t.Fatal(err)
	}
	if p.Metadata.Name != "belfry" || p.Spec.Version != "v1.2.3" || len(p.Spec.ShortDescription) > 50 || len(p.Spec.Platforms) != 6 {
		t.Errorf("%s", text)
	}
	list, err := checksums(dir)
	if err != nil {
		t.Fatal(err)
	}
	sums := byName(list)
	for _, is := range p.Spec.Platforms {
		system, arch := is.Selector.MatchLabels["os"], is.Selector.MatchLabels["arch"]
		name := path.Base(is.URI)
		if is.URI != "https://github.com/belfrylb/belfry/releases/download/v1.2.3/"+name || is.SHA256 == "" || is.SHA256 != sums[name] {
			t.Errorf("%s/%s is at %s with %s; the release has %v", system, arch, is.URI, is.SHA256, sums)
		}
		files := unpack(t, filepath.Join(dir, name))
		if files[is.Bin] != system+arch+" 755" || !strings.HasPrefix(files["LICENSE"], "\n                                 Apache License") || len(files) != 2 {
			t.Errorf("%s has %.100q", name, files)
		}
		if want := "kubectl-belfry"; strings.TrimSuffix(is.Bin, ".exe") != want || strings.HasSuffix(is.Bin, ".exe") != (system == "windows") {
			t.Errorf("on %s it is called %s", system, is.Bin)
		}
		for _, f := range is.Files {
			if files[f.From] == "" {
				t.Errorf("%s has no %s", name, f.From)
			}
		}
	}
	// The same files give the same archive.
	if err := writeKrew(dir, "v1.2.3"); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(filepath.Join(dir, krewFile)); err != nil || string(again) != string(text) {
		t.Errorf("the second time it is\n%s\nnot\n%s", again, text)
	}
	if _, err := krewManifest("v1.2.3", map[string]string{}); err == nil {
		t.Error("an archive that is missing is not missed")
	}
}

// unpack returns the files of an archive, with their modes at the end.
func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = fmt.Sprintf("%s %o", body, h.Mode)
	}
}
