"""English texts to train on: the Bible, docstrings of libraries, a text file, or a treebank.

Text is lowercased. A sentence has at least two words and ends at . ? ! : or ; before white space or
at a blank line (in a treebank or a labeled file, at the end of the line). Words are letters with
single hyphens or apostrophes between them; identifiers (`n_samples`) and numbers are dropped.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
import warnings
from pathlib import Path
from typing import NamedTuple

import joblib

LIBRARIES = {'python': None, 'numpy': 'numpy', 'scipy': 'scipy', 'torch': 'torch',
             'matplotlib': 'matplotlib', 'sklearn': 'scikit-learn'}  # module: distribution
TRANSLATIONS = {'asv': 'American Standard Version', 'kjv': 'King James Version'}
# Words, or parts of words with a hyphen or an apostrophe, that give the library away:
NAMES = set('python cpython numpy np scipy torch pytorch aten matplotlib mpl pyplot plt sklearn '
            'scikit'.split())
SKIPPED_FOLDERS = 'test tests testing site-packages dist-packages idlelib lib2to3'.split()
MAX_SENTENCE = 1000  # words; a text without punctuation is cut into sentences of that length
SENTENCE_END = re.compile(r'[.?!:;]+[)\]"\'`]*\s|\n\s*\n')
WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
PUNCTUATION = '.,;:?!()[]{}<>"\'`*=|/\\-–—~“”‘’'
ROLE = re.compile(r':[\w:]+:(?=`)')
PARAMETERS = re.compile(r'^Parameters\n-+\n', re.MULTILINE)
UNDERLINE = re.compile(r'\s*[=\-~^"*#+|]{3,}[=\-~^"*#+| ]*$')


class Corpus(NamedTuple):
    name: str
    sentences: list   # of lists of str, two words or more
    sha256: str       # of the words, one sentence per line
    sources: dict     # library: version, or file: sha256 of its bytes


class Labeled(NamedTuple):
    name: str
    sentences: list   # of tuples of str, all different
    labels: list      # of str, or of (first, last): the indices of a span's words
    sha256: str       # of lines label, tab, sentence
    sources: dict     # as of Corpus


def docstrings(max_words=None, jobs=1, libraries=tuple(LIBRARIES)):
    """Read the docstrings of those `libraries`, keys of LIBRARIES, that are installed; a Corpus.

    Each different sentence is kept once, at most `max_words` words in all (see `subsample`). `jobs`
    processes parse the .py files, without importing them; private folders and tests are skipped.
    """
    found, versions = read_docstrings(libraries, jobs)
    different = dict.fromkeys(words for group in found.values() for words in group)
    return make_corpus('docstrings', subsample(list(map(list, different)), max_words), versions)


def bible(translation='asv', max_words=None):
    """Read the Bible in a translation of TRANSLATIONS; a Corpus with each different sentence once.

    Its package holds the text as one string between triple quotes, which is read without importing
    the package. Raises ValueError if it is not installed.
    """
    name, package = TRANSLATIONS[translation], f'pythonbible-{translation}'
    spec = importlib.util.find_spec(package.replace('-', '_'))
    if spec is None:
        raise ValueError(f'the {name} of the Bible needs the package {package}: '
                         'python -m pip install -r requirements-extra.txt')
    path = Path(spec.origin).with_name('plain_text_readers_bible.py')
    _, text, _ = path.read_text(encoding='utf-8').split('"""')
    different = dict.fromkeys(map(tuple, split(text)))
    return make_corpus(f'Bible, {name}', subsample(list(map(list, different)), max_words),
                       {package: importlib.metadata.version(package)})


def labeled_docstrings(jobs=1, libraries=tuple(LIBRARIES), min_length=2, max_length=MAX_SENTENCE):
    """Read the sentences of `docstrings` of min_length to max_length words, labeled by library.

    Returns a Labeled, without sentences that name a library or occur in several.
    """
    found, versions = read_docstrings(libraries, jobs)
    pairs = [(library, words) for library, group in found.items() for words in group
             if min_length <= len(words) <= max_length
             and NAMES.isdisjoint(re.split("[-' ]", ' '.join(words)))]
    return make_labeled('docstrings', pairs, versions)


def read_docstrings(libraries, jobs):
    """Return ({library: sentences}, {distribution: version}) of the installed libraries."""
    texts, versions = read_texts(libraries, jobs)
    return {module: [tuple(words) for text in group for words in split(remove_code(text))]
            for module, group in texts.items()}, versions


def read_texts(libraries, jobs):
    """Return ({library: docstrings}, {distribution: version}) of the installed libraries."""
    found, versions, parallel = {}, {}, joblib.Parallel(n_jobs=jobs)
    for module in libraries:
        if module == 'python':
            folder, versions[module] = sysconfig.get_path('stdlib'), platform.python_version()
        elif (spec := importlib.util.find_spec(module)) is not None:
            folder = Path(spec.origin).parent
            versions[LIBRARIES[module]] = importlib.metadata.version(LIBRARIES[module])
        else:
            continue
        paths = [path for path in sorted(Path(folder).rglob('*.py'))
                 if not any(part in SKIPPED_FOLDERS or part.startswith('_')
                            for part in path.relative_to(folder).parts[:-1])]
        parsed = parallel(joblib.delayed(parse_docstrings)(path) for path in paths)
        found[module] = [text for texts in parsed for text in texts]
    return found, versions


def parameter_spans(jobs=1, libraries=tuple(LIBRARIES), max_length=50):
    """Read the docstrings of `libraries` in which numpydoc's section "Parameters" has an entry.

    Returns a Labeled: the first `max_length` words of each docstring, and where in them the
    description of the first parameter begins and ends. Each different description is kept once.
    """
    found, versions = read_texts(libraries, jobs)
    spans = {}
    for text in (text for group in found.values() for text in group):
        if section := PARAMETERS.search(text):
            entry, *lines = text[section.end():].split('\n')
            end = next((k for k, line in enumerate(lines) if line and line[0] != ' '), len(lines))
            parts = text[:section.end()] + entry, '\n'.join(lines[:end]), '\n'.join(lines[end:])
            before, description, after = (split_words(remove_code(part)) for part in parts)
            last = len(before) + len(description) - 1
            if description and last < max_length:
                words = tuple((before + description + after)[:max_length])
                spans.setdefault(tuple(description), (words, (len(before), last)))
    if not spans:
        raise ValueError('docstrings: no parameter is described, expected a section "Parameters"')
    sentences, labels = map(list, zip(*spans.values()))
    digest = hash_lines(f'{first} {last}\t{" ".join(words)}'
                        for words, (first, last) in spans.values())
    return Labeled('parameters in docstrings', sentences, labels, digest, versions)


def parse_docstrings(path):
    """Return the docstrings of a module's source; none if it is not valid in this Python."""
    try:
        with warnings.catch_warnings(action='ignore'):  # about escapes in its strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    return [text for node in definitions(tree) if (text := ast.get_docstring(node))]


def definitions(node):
    """Yield the modules, classes and functions in `node`; ast.walk also visits all expressions."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.excepthandler)):
            yield from definitions(child)


def remove_code(text):
    """Remove doctests, roles, underlines, and what is indented below a '.. ' or '…::' line."""
    lines, block, doctest = [], None, False
    for line in text.splitlines():
        bare = line.lstrip()
        indent = len(line) - len(bare)
        if block is not None and bare and indent <= block:
            block = None
        doctest = bool(bare) and (doctest or bare.startswith('>>>'))  # includes its output
        if block is None and (bare.startswith('.. ') or bare.endswith('::')):
            block = indent
        lines.append('' if doctest or block is not None or UNDERLINE.match(line) else line)
    return ROLE.sub('', '\n'.join(lines))


def subsample(sentences, max_words):
    """Return evenly spaced `sentences` of at most `max_words` words in all; all for None."""
    total = sum(map(len, sentences))
    if max_words is None or total <= max_words:
        return sentences
    kept, seen, taken = [], 0, 0
    for sentence in sentences:
        seen += len(sentence)
        if (taken + len(sentence)) * total <= max_words * seen:
            kept.append(sentence)
            taken += len(sentence)
    return kept


def text_file(path, max_words=None):
    """Read a file of English in UTF-8; a Corpus. Raises FileNotFoundError, OSError, ValueError."""
    text, sources = read_text(path, 'a text file')
    return make_corpus(Path(path).name, subsample(split(text), max_words), sources)


def treebank(folder, max_words=None):
    """Read datasetSentences.txt of the Stanford Sentiment Treebank, one sentence per line."""
    path = Path(folder) / 'datasetSentences.txt'
    text, sources = read_text(path, "the Stanford Sentiment Treebank's")
    header, *rows = [line.split('\t') for line in text.rstrip().split('\n') if line] or [[]]
    valid = all(len(row) == 2 and row[0].isdecimal() for row in rows)
    if header != ['sentence_index', 'sentence'] or not valid:
        raise ValueError(f"{path}: not the Stanford Sentiment Treebank's, expected a line "
                         "'sentence_index<tab>sentence', then a number, a tab and a sentence each")
    texts = (re.sub('-[LR]RB-', ' ', decode_again(sentence)) for _, sentence in rows)
    sentences = [words for text in texts if len(words := split_words(text)) > 1]
    return make_corpus('Stanford Sentiment Treebank', subsample(sentences, max_words), sources)


def decode_again(text):
    """Undo the second UTF-8 encoding that some lines of the published file have."""
    try:
        return text.encode('latin-1').decode('utf-8')
    except UnicodeError:
        return text


def labeled_file(path, max_length=None):
    """Read lines of label, tab, text in UTF-8; a Labeled of the first `max_length` words of each.

    Equal texts are kept once, or not at all if their labels differ; texts without words are left
    out. Raises FileNotFoundError, OSError or ValueError with one sentence that names the file.
    """
    content, sources = read_text(path, 'lines of a label, a tab and a text')
    pairs = []
    for number, line in enumerate(content.split('\n'), 1):
        label, tab, text = line.partition('\t')
        if line.strip() and not (tab and label.strip()):
            raise ValueError(f'{path}: line {number} is no label, tab and text')
        if words := split_words(text):
            pairs.append((label.strip(), tuple(words[:max_length])))
    return make_labeled(Path(path).name, pairs, sources)


def read_text(path, expected):
    """Return (the text of a UTF-8 file, {its name: sha256})."""
    try:
        content = Path(path).read_bytes()
        text = content.decode('utf-8-sig').replace('\r\n', '\n')
        return text, {Path(path).name: hashlib.sha256(content).hexdigest()}
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file, expected {expected}') from None
    except OSError as error:
        raise OSError(f'{path}: not readable ({error.strerror}), expected {expected}') from None
    except UnicodeDecodeError:
        raise ValueError(f'{path}: not UTF-8, expected {expected} in it') from None


def split(text):
    """Split a text into sentences, lists of at least 2 and at most MAX_SENTENCE words."""
    sentences = (split_words(part) for part in SENTENCE_END.split(text))
    return [part for words in sentences for k in range(0, len(words), MAX_SENTENCE)
            if len(part := words[k:k + MAX_SENTENCE]) > 1]


def split_words(text):
    bare = (part.strip(PUNCTUATION) for part in text.lower().replace('’', "'").split())
    return [word for word in bare if WORD.fullmatch(word)]


def make_corpus(name, sentences, sources):
    if not sentences:
        raise ValueError(f'{name}: no sentence of two words, expected English')
    return Corpus(name, sentences, hash_lines(map(' '.join, sentences)), sources)


def make_labeled(name, pairs, sources):
    """Make a Labeled of (label, sentence) pairs; sentences with several labels are left out."""
    label_of = {}
    for label, sentence in pairs:
        if label_of.setdefault(sentence, label) != label:
            label_of[sentence] = None
    kept = {sentence: label for sentence, label in label_of.items() if label is not None}
    if (classes := len({*kept.values()})) < 2:
        raise ValueError(f'{name}: sentences of {classes} labels, expected at least 2')
    digest = hash_lines(f'{label}\t{" ".join(sentence)}' for sentence, label in kept.items())
    return Labeled(name, list(kept), list(kept.values()), digest, sources)


def hash_lines(lines):
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()
