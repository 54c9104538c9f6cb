// Command manifests renders what an installation consists of.
//
//	go -C hack/manifests run . kustomize ../../manifests/overlays/both
//	go -C hack/manifests run . helm ../../manifests/helm/belfry [VALUES.yaml]
//	go -C hack/manifests run . package ../../manifests/helm/belfry DIRECTORY
package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "kustomize":
		text, err := kustomize(args[1])
		fmt.Print(text)
		return err
	case len(args) >= 2 && len(args) <= 3 && args[0] == "helm":
		values := map[string]any{}
		if len(args) == 3 {
			b, err := os.ReadFile(args[2])
			if err != nil {
				return err
			}
			if err := yaml.Unmarshal(b, &values); err != nil {
				return err
			}
		}
		text, err := helm(args[1], values)
		fmt.Print(text)
		return err
	case len(args) == 3 && args[0] == "package":
		file, err := pack(args[1], args[2])
		fmt.Println(file)
		return err
	}
	return errors.New("usage: manifests kustomize DIRECTORY, manifests helm CHART [VALUES.yaml], or manifests package CHART DIRECTORY")
}

// kustomize renders a kustomization. Namespaces and CRDs come first, so that the
// result can be applied in one go.
func kustomize(dir string) (string, error) {
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionLegacy
	all, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return "", err
	}
	text, err := all.AsYaml()
	return string(text), err
}

// helm renders a chart for the namespace belfry-system. Values are checked
// against the chart's schema.
func helm(dir string, values map[string]any) (string, error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return "", err
	}
	release := common.ReleaseOptions{Name: "belfry", Namespace: "belfry-system", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(chart, values, release, common.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return "", err
	}
	var names []string
	for name := range files {
		if !strings.HasSuffix(name, "NOTES.txt") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var out strings.Builder
	for _, name := range names {
		if text := strings.TrimSpace(files[name]); text != "" {
			out.WriteString("---\n" + text + "\n")
		}
	}
	return out.String(), nil
}

// pack writes a chart as NAME-VERSION.tgz and returns the file. The same chart
// gives the same bytes.
func pack(dir, output string) (file string, err error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return "", err
	}
	file = filepath.Join(output, chart.Name()+"-"+chart.Metadata.Version+".tgz")
	out, err := os.Create(file)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	zip := gzip.NewWriter(out)
	w := tar.NewWriter(zip)
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: path.Join(chart.Name(), name), Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	})
	return file, errors.Join(err, w.Close(), zip.Close())
}
