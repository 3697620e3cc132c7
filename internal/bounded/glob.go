package bounded

import (
	"io/fs"
	"os"
	"path/filepath"
)

// Glob returns the paths below a directory that match a pattern of path.Match's, in order.
// The directory's own path is taken to the letter: a user's may have a character that means
// something in a pattern. It is no error if there is no such directory.
func Glob(dir, pattern string) ([]string, error) {
	paths, err := fs.Glob(os.DirFS(dir), pattern)
	for i, path := range paths {
		paths[i] = filepath.Join(dir, path)
	}
	return paths, err
}
